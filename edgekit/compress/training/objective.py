"""What training brings down: a loss against labels, or against the float model's own outputs.

An objective is a function of the model that is trained and a batch. Which loss goes with a model
follows from its metric: class scores get cross-entropy, ``mae`` gets L1, ``cosine`` gets one minus
the cosine; a metric of the user's own gets what its targets look like: whole numbers are classes,
fractions of the outputs' shape are values (mean squared error). The user's own loss goes first.
"""

from collections.abc import Callable, Mapping
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from edgekit.compress.bench import Batch, Bench, Objective
from edgekit.compress.training.class_losses import (
    cosine_loss,
    counted_rows,
    cross_entropy,
    soft_labels,
)
from edgekit.compress.training.loss_checks import call_loss, check_outputs_match
from edgekit.core.codec import nearest
from edgekit.core.errors import StepError
from edgekit.data.dataset import TARGET

Task = Literal["classification", "l1", "mse", "embedding"]
Loss = Callable[[Tensor, Tensor], Tensor]

_BY_METRIC: Mapping[str, Task] = {
    "top-1": "classification",
    "top-5": "classification",
    "nll": "classification",
    "mae": "l1",
    "cosine": "embedding",
}


def label_objective(bench: Bench, *, label_smoothing: float = 0.0) -> Objective:
    """The user's own loss, else the one that goes with the metric, against the targets.

    Embeddings without targets follow the float model's outputs.
    Raises: StepError where there are no targets, or nothing tells which loss to take.
    """
    is_plain = bench.loss is None and not _has_target(bench)
    if is_plain and task_of(bench) == "embedding":
        return teacher_objective(bench, 1.0)
    loss = label_loss(bench, label_smoothing=label_smoothing)
    return lambda model, batch: loss(bench.call(model, batch.inputs), batch)


def teacher_objective(
    bench: Bench, weight: float, temperature: float = 4.0, *, label_smoothing: float = 0.0
) -> Objective:
    """The label loss mixed with following the float model's outputs: ``weight`` is its share.

    Class scores follow softened probabilities, embeddings the direction of every output, values
    the values; outputs beside the one that the metric is about follow the values.
    Raises: StepError for a weight outside 0..1, a temperature of 0 or less, outputs that do not
    match the teacher's.
    """
    if not 0 <= weight <= 1:
        raise StepError(f"teacher weight is {weight}; it is a share of the loss, 0 to 1")
    if not temperature > 0:
        raise StepError(f"temperature is {temperature}; it must be above 0 (1 leaves scores alone)")
    if weight == 0:
        return label_objective(bench, label_smoothing=label_smoothing)
    labelled = None if weight == 1 else label_loss(bench, label_smoothing=label_smoothing)
    follow = _follower(bench, temperature)

    def objective(model: nn.Module, batch: Batch) -> Tensor:
        with torch.no_grad():
            wanted = bench.call(bench.teacher, batch.inputs)
        outputs = bench.call(model, batch.inputs)
        check_outputs_match(outputs, wanted)
        soft = follow(outputs, wanted, batch.target)
        if labelled is None:
            return soft
        return weight * soft + (1 - weight) * labelled(outputs, batch)

    return objective


def label_loss(
    bench: Bench, *, label_smoothing: float = 0.0, task: Task | None = None
) -> Callable[[Mapping[str, Tensor], Batch], Tensor]:
    """The label loss of outputs that are there already. task: None for what goes with the metric.

    Raises: StepError where there are no targets, or nothing tells which loss to take.
    """
    own = bench.loss
    if own is not None:
        return lambda outputs, batch: call_loss(own, outputs, batch.target)
    task, name = task or task_of(bench), output_of(bench)
    if not _has_target(bench):
        raise StepError(
            "the label loss needs targets, and the training data have none; give samples (x, y) or "
            "a loss of your own, or let a teacher have all of the loss (a weight of 1)"
        )
    loss = _label_loss(bench, task, label_smoothing)
    return lambda outputs, batch: loss(outputs[name], _target(batch))


def task_of(bench: Bench) -> Task:
    """What kind of loss goes with the metric and the targets.

    Raises: StepError where nothing tells.
    """
    if bench.metric.is_builtin:
        return _BY_METRIC[bench.metric.name.partition(":")[0]]
    if bench.training is None or TARGET not in bench.training.arrays:
        return "mse"
    spec = bench.training.arrays[TARGET]
    if not spec.dtype.startswith("float"):
        return "classification"
    sizes = next(item.shape for item in bench.contract.outputs if item.name == output_of(bench))[1:]
    if len(sizes) == len(spec.shape):
        return "mse"
    raise StepError(
        f"no loss is known for metric {bench.metric.name} with targets of {spec.dtype} "
        f"{list(spec.shape)} and outputs of {list(sizes)} a sample; give the workload a 'loss': a "
        "callable (outputs, target) -> one number"
    )


def output_of(bench: Bench) -> str:
    """The output that the metric is about: the one it names, else the first.

    Raises: StepError when the model has no such output.
    """
    named = bench.metric.name.partition(":")[2] if bench.metric.is_builtin else ""
    names = [item.name for item in bench.contract.outputs]
    if named and named not in names:
        raise StepError(f"metric {bench.metric.name}: no output '{named}'{nearest(named, names)}")
    return named or bench.output


def _label_loss(bench: Bench, task: Task, label_smoothing: float) -> Loss:
    if task == "classification":
        scores_of = scores_reader(bench)
        return lambda values, target: cross_entropy(scores_of(values), target, label_smoothing)
    if task == "embedding":
        return lambda values, target: cosine_loss(values, _as_values(values, target))
    distance = functional.l1_loss if task == "l1" else functional.mse_loss
    return lambda values, target: distance(values, _as_values(values, target))


def _follower(
    bench: Bench, temperature: float
) -> Callable[[Mapping[str, Tensor], Mapping[str, Tensor], Tensor | None], Tensor]:
    task, main = task_of(bench), output_of(bench)
    scores_of = scores_reader(bench) if task == "classification" else None

    def follow(
        outputs: Mapping[str, Tensor], wanted: Mapping[str, Tensor], target: Tensor | None
    ) -> Tensor:
        losses = []
        for name, value in outputs.items():
            if task == "embedding":
                losses.append(cosine_loss(value, wanted[name]))
            elif scores_of is not None and name == main:
                pair = counted_rows(scores_of(value), scores_of(wanted[name]), target)
                losses.append(soft_labels(*pair, temperature))
            elif task == "l1" and name == main:
                losses.append(functional.l1_loss(value, wanted[name]))
            elif value.is_floating_point():
                losses.append(functional.mse_loss(value, wanted[name]))
        return torch.stack(losses).mean()

    return follow


def scores_reader(bench: Bench, model: nn.Module | None = None) -> Callable[[Tensor], Tensor]:
    """What turns a model's output into class scores: nothing, or a logarithm of probabilities.

    model: in eval mode; the float model where it is None.
    """
    name = output_of(bench)
    with torch.no_grad():
        found = bench.call(model or bench.teacher, bench.example())[name].float()
    is_share = bool((found >= 0).all()) and found.ndim >= 2
    sums = found.sum(dim=-1)
    if is_share and torch.allclose(sums, torch.ones_like(sums), atol=1e-3):
        # The softmax of the logarithms of probabilities is those probabilities.
        tiny = torch.finfo(torch.float32).tiny
        return lambda values: values.float().clamp_min(tiny).log()
    return lambda values: values


def _as_values(values: Tensor, target: Tensor) -> Tensor:
    if len(values) != len(target) or values.numel() != target.numel():
        raise StepError(
            f"outputs of shape {list(values.shape)} and targets of {list(target.shape)}; they must "
            "have the same elements for a loss of values (a regression): set the task to "
            "'classification' where targets are class numbers, or give the workload a 'loss'"
        )
    return target.reshape(values.shape).to(values.dtype)


def _target(batch: Batch) -> Tensor:
    if batch.target is None:
        raise StepError("a batch has no target, and the label loss needs one")
    return batch.target


def _has_target(bench: Bench) -> bool:
    return bench.training is not None and TARGET in bench.training.arrays
