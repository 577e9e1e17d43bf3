"""Plain training on the labels: of a finished model further, or of a new one from the start."""

import copy
import inspect
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from edgekit.compress.bench import Bench, Call, StepResult
from edgekit.compress.training.augment import make_augment
from edgekit.compress.training.objective import label_objective
from edgekit.compress.training.train import Trained, train
from edgekit.core.contract import Contract, InputContract, InputKind, OutputContract
from edgekit.core.errors import StepError
from edgekit.core.progress import Listener, Reporter, ignore
from edgekit.core.steps.train import Train
from edgekit.data.checks import write_checked
from edgekit.data.dataset import Dataset
from edgekit.evaluate.metrics import resolve_metric

Samples = Dataset | Iterable[Any]


def finetune(settings: Train, bench: Bench, reporter: Reporter) -> StepResult:
    """The step "train": the model is trained further on its own loss; its zeros stay zero.

    Raises: StepError for settings that train nothing, and as ``train`` does.
    """
    if not settings.epochs:
        raise StepError("step 'train': epochs is 0, which trains nothing; set 1 or more")
    objective = label_objective(bench, label_smoothing=settings.label_smoothing)
    trained = train(bench.model, objective, bench, settings, reporter, masks=bench.masks)
    if trained.points[0].is_kept:
        reporter.warn(
            f"no epoch was better by {bench.metric.name} on the selection data than the weights "
            f"that training began with ({trained.score:.4g}), so these are kept; lower "
            f"learning_rate (now {settings.learning_rate:g}), or train longer"
        )
    return StepResult(
        model=bench.model.cpu(),
        masks=bench.masks,
        points=trained.points,
        values={"score": trained.score, "epochs": trained.epochs},
        ranges=trained.ranges,
    )


def fit_model(  # noqa: PLR0913  # all keyword-only after the model and its inputs
    model: nn.Module,
    inputs: Mapping[str, InputKind],
    *,
    training: Samples,
    selection: Samples,
    folder: Path,
    metric: Any = "top-1",
    settings: Train | None = None,
    loss: Callable[[Any, Any], Tensor] | None = None,
    augment: Any = None,
    seed: int = 0,
    device: torch.device | None = None,
    listener: Listener = ignore,
) -> Trained:
    """Train a model in place, outside any build; a killed call goes on when it is made again.

    inputs: as in a workload, in the order in which the model takes them. training, selection: as in
    a workload, or datasets on disk. folder: for the samples on disk and the checkpoints. metric,
    loss, augment: as in a workload. device: CUDA where there is one, unless it is given. The model
    ends on the CPU in eval mode, with the best weights on the selection data.
    Raises: WorkloadError for samples that are not what ``inputs`` declare; StepError as ``train``.
    """
    place = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    resolved = resolve_metric(metric)
    if resolved.is_builtin and not resolved.needs_target:
        raise StepError(
            f"metric {resolved.name} compares a model with the one that it was made from, and a "
            "new model has none; choose a metric of outputs and targets"
        )
    ours = _dataset(training, inputs, folder / "training", needs_target=loss is None)
    theirs = _dataset(selection, inputs, folder / "selection", needs_target=True)
    model.to(place)
    call = _call_of(model, tuple(inputs))
    contract = _contract(model, inputs, call, ours, place)
    bench = Bench(
        model=model,
        teacher=copy.deepcopy(model).eval().requires_grad_(requires_grad=False),
        contract=contract,
        call=call,
        training=ours,
        calibration=ours,
        selection=theirs,
        metric=resolved,
        checkpoints=folder / "checkpoints",
        loss=loss,
        augment=make_augment(augment, contract),
        seed=seed,
        device=place,
    )
    chosen = settings or Train()
    objective = label_objective(bench, label_smoothing=chosen.label_smoothing)
    reporter = Reporter(stage="train", listener=listener)
    trained = train(model, objective, bench, chosen, reporter)
    model.cpu()
    return trained


def _dataset(
    samples: Samples, inputs: Mapping[str, InputKind], out: Path, *, needs_target: bool
) -> Dataset:
    """Samples on disk; those that an earlier call wrote there make room."""
    if isinstance(samples, Dataset):
        return samples
    if out.exists():
        shutil.rmtree(out)
    return write_checked(samples, inputs, out, set_name=out.name, needs_target=needs_target).dataset


def _call_of(model: nn.Module, inputs: tuple[str, ...]) -> Call:
    """A model called with inputs by name where its forward has these names, else by position."""
    parameters = inspect.signature(model.forward).parameters
    is_named = all(name in parameters for name in inputs)

    def call(module: nn.Module, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
        chosen = {name: given[name] for name in inputs}
        return _by_name(module(**chosen) if is_named else module(*chosen.values()))

    return call


def _by_name(found: Any) -> dict[str, Tensor]:
    """What a model returns, by output name: one tensor, several, or some by name."""
    if isinstance(found, Tensor):
        return {"output": found}
    if isinstance(found, Mapping):
        return {str(name): value for name, value in found.items() if isinstance(value, Tensor)}
    if isinstance(found, (tuple, list)) and all(isinstance(value, Tensor) for value in found):
        return {f"output_{index}": value for index, value in enumerate(found)}
    raise StepError(
        f"the model returned {type(found).__name__}; it must return a tensor, a tuple of tensors, "
        "or tensors by name"
    )


def _contract(
    model: nn.Module,
    inputs: Mapping[str, InputKind],
    call: Call,
    dataset: Dataset,
    device: torch.device,
) -> Contract:
    rows = next(iter(dataset.batches(1, inputs)))
    example = {name: torch.from_numpy(value).to(device) for name, value in rows.items()}
    with torch.no_grad():
        found = call(model.eval(), example)
    return Contract(
        inputs=tuple(
            InputContract(
                name=name,
                dtype=kind.dtype,
                shape=("batch", *kind.element_shape),
                source=kind,
            )
            for name, kind in inputs.items()
        ),
        outputs=tuple(
            OutputContract(
                name=name,
                dtype=str(value.dtype).removeprefix("torch."),
                shape=("batch", *value.shape[1:]),
            )
            for name, value in found.items()
        ),
    )
