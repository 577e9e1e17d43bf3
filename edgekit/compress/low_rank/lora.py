"""The step "lora": adapters of rank r beside frozen weights, merged into them at the end.

Either PEFT's, read from a folder, or its own, trained here to win back what earlier steps lost.
Training computes W + scale * B A by a parametrization of the weight, so whatever reads the weight
sees the sum; afterwards the sum is the weight and the parametrization is gone.
"""

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from edgekit.compress.bench import Batch, Bench, Objective, StepPoint, StepResult
from edgekit.compress.count import count
from edgekit.compress.judge import Judge
from edgekit.compress.layer_paths import matching
from edgekit.compress.low_rank.adapter_files import Adapter, load_adapter
from edgekit.compress.low_rank.adapters import fitted, merge_, shared_parameters
from edgekit.compress.thin_layers import is_transposed, taps
from edgekit.compress.training.batches import stream
from edgekit.compress.training.recovery import recovery_objective
from edgekit.compress.training.train import train
from edgekit.core.errors import StepError
from edgekit.core.progress import Reporter
from edgekit.core.steps.lora import Lora

_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


class LowRankChange(nn.Module):
    """A weight plus scale * B A; B begins as zeros, so nothing changes at first.

    Source: Hu et al. 2021, arXiv:2106.09685, section 4.1: A random, B zero, scale alpha / r. A as
    PEFT draws it: uniform within 1 / sqrt(in).
    Shapes: up (out, rank), down (rank, in x taps).
    """

    def __init__(
        self,
        weight: Tensor,
        *,
        rank: int,
        scale: float,
        generator: torch.Generator,
        is_turned: bool = False,
        mask: Tensor | None = None,
    ) -> None:
        """is_turned: the weight is (in, out). mask: where the weight may change."""
        super().__init__()
        matrix = weight.detach().T if is_turned else weight.detach().flatten(1)
        bound = 1 / math.sqrt(matrix.shape[1])
        drawn = torch.rand(rank, matrix.shape[1], generator=generator) * 2 - 1
        self.down = nn.Parameter((drawn * bound).to(matrix))
        self.up = nn.Parameter(matrix.new_zeros(matrix.shape[0], rank))
        self.scale, self.is_turned, self.is_masked = scale, is_turned, mask is not None
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, weight: Tensor) -> Tensor:
        """The changed weight."""
        product = self.scale * (self.up @ self.down)
        product = product.T if self.is_turned else product.reshape(weight.shape)
        return weight + (product * self.get_buffer("mask") if self.is_masked else product)


def lora(settings: Lora, bench: Bench, reporter: Reporter) -> StepResult:
    """Merge an adapter of the user's, or train one and merge it.

    Raises: StepError for an adapter that does not fit the model, targets that match no layer, no
    training data where adapters are to be trained, and adapters that changed nothing.
    """
    model = bench.model.to(bench.device)
    judge = Judge(bench)
    if settings.adapter:
        return _merged(settings.adapter, model, bench, judge)
    if bench.training is None:
        raise StepError(
            "lora: adapters are to be trained and there are no training data; give the workload "
            "some, or an adapter to merge"
        )
    return _trained(settings, model, bench, reporter)


def _merged(folder: str, model: nn.Module, bench: Bench, judge: Judge) -> StepResult:
    started = time.monotonic()
    adapter = fitted(load_adapter(Path(folder)), model)
    _refuse_masked(adapter, bench)
    start = _point("as it came", model, bench, judge)
    merge_(model, adapter)
    merged = _point("merged", model, bench, judge)
    return StepResult(
        model=model.eval().cpu(),
        masks=bench.masks,
        points=(start, replace(merged, is_kept=True, seconds=time.monotonic() - started)),
        values={
            "adapter": Path(folder).name,
            "merged": {
                path: {"rank": item.rank, "scale": item.scale}
                for path, item in adapter.factors.items()
            },
            "replaced": sorted(adapter.replaced),
        },
    )


def _trained(settings: Lora, model: nn.Module, bench: Bench, reporter: Reporter) -> StepResult:
    targets, left = adaptable_layers(model, settings)
    before = {path: model.get_submodule(path).get_parameter("weight").clone() for path in targets}
    inner = recovery_objective(bench, settings.train, settings.teacher_weight, reporter)
    with adapted(model, targets, settings, bench):
        added = sum(item.numel() for item in model.parameters() if item.requires_grad)
        trained = train(
            model,
            _with_still_norms(inner),
            bench,
            settings.train,
            reporter,
            masks={},  # the adapters keep the zeros themselves: the weights beneath are frozen
            name="lora",
        )
    changed = [
        path
        for path, weight in before.items()
        if not torch.equal(weight, model.get_submodule(path).get_parameter("weight"))
    ]
    if not changed:
        raise StepError(
            f"lora: {settings.train.epochs} epochs of adapters never bettered the metric on the "
            "selection data, so nothing changed; train longer, lower learning_rate (now "
            f"{settings.train.learning_rate:g}), raise rank (now {settings.rank}), or leave this "
            "step out"
        )
    size = count(model, bench)  # the adapters are gone: what they added counts no more
    points = tuple(
        replace(point, parameters=size.parameters, macs=size.macs) for point in trained.points
    )
    return StepResult(
        model=model.eval().cpu(),
        masks=bench.masks,
        points=points,
        values={"adapters": targets, "trained_parameters": added, "left": left},
    )


def adaptable_layers(model: nn.Module, settings: Lora) -> tuple[dict[str, int], dict[str, str]]:
    """The layers that get an adapter and its rank, and those that cannot have one, and why.

    A rank is at most the smaller side of a weight.
    Raises: StepError where a pattern matches nothing, or no layer is left.
    """
    layers = {path: item for path, item in model.named_modules() if _is_layer(item)}
    if settings.targets:
        chosen = matching("lora: targets", settings.targets, layers)
    else:
        chosen = {path for path, item in layers.items() if _taps(item) == 1}
    shared = shared_parameters(model)
    left = {
        path: f"its weight is that of '{shared[path]}' too"
        for path in layers
        if path in chosen and path in shared
    }
    for path in chosen:
        if "weight" not in layers[path]._parameters:  # noqa: SLF001  # a computed one is none
            left[path] = "its weight is computed from others"
    found = {
        path: min(settings.rank, *_matrix_shape(item))
        for path, item in layers.items()
        if path in chosen and path not in left
    }
    if not found:
        reasons = "; ".join(f"'{path}': {why}" for path, why in list(left.items())[:5])
        raise StepError(f"lora: no layer can have an adapter: {reasons or 'the model has none'}")
    return found, left


@contextmanager
def adapted(
    model: nn.Module, ranks: Mapping[str, int], settings: Lora, bench: Bench
) -> Iterator[None]:
    """Within the block the layers have adapters and nothing else takes gradients.

    Afterwards the adapters are merged, or gone without a trace if the block failed.
    """
    took_gradients = {name: item.requires_grad for name, item in model.named_parameters()}
    model.requires_grad_(requires_grad=False)
    for path, rank in ranks.items():
        layer = model.get_submodule(path)
        mask = bench.masks.get(f"{path}.weight" if path else "weight")
        change = LowRankChange(
            layer.get_parameter("weight"),
            rank=rank,
            scale=settings.alpha / settings.rank,
            generator=stream(bench.seed, "lora", path),
            is_turned=is_transposed(layer),
            mask=mask,
        )
        parametrize.register_parametrization(layer, "weight", change.to(bench.device))
    is_whole = False
    try:
        yield
        is_whole = True
    finally:
        for path in ranks:
            layer = model.get_submodule(path)
            parametrize.remove_parametrizations(layer, "weight", leave_parametrized=is_whole)
            _put_first(layer, "weight")
        for name, item in model.named_parameters():
            item.requires_grad_(took_gradients[name])


def _put_first(layer: nn.Module, name: str) -> None:
    """A parameter that was parametrized comes back as the last one of its layer."""
    others = [item for item in layer._parameters if item != name]  # noqa: SLF001
    for item in others:
        layer._parameters[item] = layer._parameters.pop(item)  # noqa: SLF001


def _with_still_norms(inner: Objective) -> Objective:
    """The same loss, with batch norm layers that neither learn statistics nor use the batch's."""

    def objective(model: nn.Module, batch: Batch) -> Tensor:
        for module in model.modules():
            if isinstance(module, _BATCH_NORMS):
                module.eval()
        return inner(model, batch)

    return objective


def _refuse_masked(adapter: Adapter, bench: Bench) -> None:
    for path in [*(f"{item}.weight" for item in adapter.factors), *adapter.replaced]:
        if path in bench.masks:
            raise StepError(
                f"{adapter.folder}: '{path}' has weights that an earlier step set to zero for good "
                "and merging would fill; merge adapters before sparsify"
            )


def _is_layer(module: nn.Module) -> bool:
    return isinstance(module, (nn.Linear, nn.Conv1d, nn.Conv2d)) or is_transposed(module)


def _taps(layer: nn.Module) -> int:
    return taps(layer) if isinstance(layer, (nn.Conv1d, nn.Conv2d)) else 1


def _matrix_shape(layer: nn.Module) -> tuple[int, int]:
    weight = layer.get_parameter("weight")
    return len(weight), weight[0].numel()


def _point(name: str, model: nn.Module, bench: Bench, judge: Judge) -> StepPoint:
    size = count(model, bench)
    return StepPoint(
        name=name, parameters=size.parameters, macs=size.macs, score=judge.score(model)
    )
