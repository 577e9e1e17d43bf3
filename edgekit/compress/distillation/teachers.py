"""What a student follows: the outputs of one teacher or of several, read as the task wants them."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from edgekit.compress.bench import Bench
from edgekit.compress.distillation.losses import mean_direction, mean_scores
from edgekit.compress.distillation.taps import Caught, Tap, tapped
from edgekit.compress.training.loss_checks import check_outputs_match
from edgekit.compress.training.objective import Task as LabelTask
from edgekit.compress.training.objective import output_of, scores_reader, task_of
from edgekit.core.contract import Text
from edgekit.core.errors import StepError
from edgekit.core.steps.distil import Task as AskedTask
from edgekit.data.dataset import TARGET
from edgekit.evaluate.builtin import IGNORED_LABEL

Kind = Literal["classification", "regression", "embedding", "language"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What a model is for, as far as a loss must know.

    output: the one that the metric is about; shape: of it for two samples. label_task: the loss
    against labels that goes with it. class_axis: of the output's scores; -1 where it has none.
    """

    kind: Kind
    label_task: LabelTask
    output: str
    shape: tuple[int, ...]
    class_axis: int = -1

    @property
    def has_classes(self) -> bool:
        """Whether the output holds class scores, of a sample or of each of its positions."""
        return self.label_task == "classification"

    @property
    def classes(self) -> int:
        """How many classes there are."""
        return self.shape[self.class_axis]

    @property
    def positions(self) -> tuple[int, ...]:
        """The shape of the labels of one sample; () for one label a sample."""
        return tuple(n for axis, n in enumerate(self.shape) if axis not in (0, self.class_axis))

    def classes_last(self, scores: Tensor) -> Tensor:
        """Class scores with the classes at the end. Shapes: (n, *positions, classes)."""
        return scores.movedim(self.class_axis, -1)


def resolve_task(asked: AskedTask, bench: Bench) -> Task:
    """The task of a bench: what is asked for, else what the metric and the targets say.

    Raises: StepError for outputs that do not go with it.
    """
    output = output_of(bench)
    with torch.no_grad():
        shape = tuple(bench.call(bench.teacher, bench.example(2))[output].shape)
    label_task = _label_task(asked, bench, shape)
    kind: Kind = _KINDS[label_task] if asked == "auto" else asked
    if label_task != "classification":
        return Task(kind=kind, label_task=label_task, output=output, shape=shape)
    axis = _class_axis(bench, shape)
    is_language = kind == "language"
    if len(shape) < 2 or (is_language and len(shape) != 3) or shape[axis] < 2:
        what = "(n, tokens, vocabulary)" if is_language else "(n, classes), at least two of them"
        raise StepError(
            f"distil: task is '{kind}' and output '{output}' is {list(shape)} for two samples; it "
            f"must be {what}: set another task"
        )
    return Task(kind=kind, label_task=label_task, output=output, shape=shape, class_axis=axis)


@dataclass(frozen=True, slots=True, kw_only=True)
class Taught:
    """What the teachers made of a batch. outputs: of each. caught: in the first one's layers."""

    outputs: tuple[dict[str, Tensor], ...]
    caught: Caught


class Teachers:
    """The float model and those beside it; all in eval mode, without gradients."""

    def __init__(self, bench: Bench, task: Task) -> None:
        """Raises: StepError for a teacher whose outputs are not those of the first."""
        self._bench, self._task = bench, task
        self.models: tuple[nn.Module, ...] = (bench.teacher, *bench.teachers)
        for model in self.models:
            model.eval()
        self._check_outputs()
        self._readers: tuple[Callable[[Tensor], Tensor], ...] = ()
        if task.has_classes:
            self._readers = tuple(scores_reader(bench, model) for model in self.models)

    def teach(self, inputs: Mapping[str, Tensor], taps: Iterable[Tap] = ()) -> Taught:
        """One forward of each teacher; ``taps`` are caught in the first."""
        with torch.no_grad():
            with tapped(self.models[0], taps) as caught:
                first = self._bench.call(self.models[0], inputs)
            others = [self._bench.call(model, inputs) for model in self.models[1:]]
        return Taught(outputs=(first, *others), caught=caught)

    def scores(self, taught: Taught, temperature: float) -> Tensor:
        """Class scores that stand for all teachers: their softened probabilities are the mean.

        Shapes: (n, *positions, classes).
        """
        name = self._task.output
        pairs = zip(self._readers, taught.outputs, strict=True)
        read = [self._task.classes_last(reader(found[name])).float() for reader, found in pairs]
        return mean_scores(read, temperature)

    def values(self, taught: Taught, name: str) -> Tensor:
        """The mean of all teachers' values of an output; of embeddings the mean direction."""
        found = [outputs[name] for outputs in taught.outputs]
        if self._task.kind == "embedding":
            return mean_direction(found)
        return found[0] if len(found) == 1 else torch.stack(found).mean(dim=0)

    def _check_outputs(self) -> None:
        example = self._bench.example(2)
        first, *others = self.teach(example).outputs
        for number, outputs in enumerate(others, start=2):
            try:
                check_outputs_match(outputs, first)
            except StepError as error:
                whole = len(others) + 1
                raise StepError(f"distil: teacher {number} of {whole}: {error}") from error


def counted_positions(bench: Bench, inputs: Mapping[str, Tensor]) -> Tensor | None:
    """Which tokens of a batch are no padding, by the contract's mask; None where it has none.

    Shapes: (n, tokens).
    """
    masks = [
        inputs[item.name]
        for item in bench.contract.inputs
        if isinstance(item.source, Text) and item.source.part == "mask"
    ]
    return masks[0] != 0 if len(masks) == 1 and masks[0].ndim == 2 else None


def next_tokens(bench: Bench, inputs: Mapping[str, Tensor]) -> Tensor | None:
    """What a language model should say at each token: the one after it; None without token ids.

    The last token, and those before padding, have no label (-100).
    Shapes: (n, tokens).
    """
    texts = [item for item in bench.contract.inputs if isinstance(item.source, Text)]
    ids = [item for item in texts if isinstance(item.source, Text) and item.source.part == "ids"]
    if len(ids) != 1 or inputs[ids[0].name].ndim != 2:
        return None
    found = inputs[ids[0].name].long()
    labels = torch.full_like(found, IGNORED_LABEL)
    labels[:, :-1] = found[:, 1:]
    mask_names = [
        item.name for item in texts if isinstance(item.source, Text) and item.source.part == "mask"
    ]
    for name in mask_names:
        is_padding = inputs[name] == 0
        labels[:, :-1].masked_fill_(is_padding[:, 1:] | is_padding[:, :-1], IGNORED_LABEL)
    return labels


def has_targets(bench: Bench) -> bool:
    """Whether the training data have labels."""
    return bench.training is not None and TARGET in bench.training.arrays


_KINDS: Mapping[LabelTask, Kind] = {
    "classification": "classification",
    "l1": "regression",
    "mse": "regression",
    "embedding": "embedding",
}


def _label_task(asked: AskedTask, bench: Bench, shape: tuple[int, ...]) -> LabelTask:
    if asked in ("classification", "language"):
        return "classification"
    if asked == "embedding":
        return "embedding"
    # Where the training data have no targets, those of the selection data tell.
    known = bench if has_targets(bench) else replace(bench, training=bench.selection)
    if asked == "auto" and bench.loss is not None and not bench.metric.is_builtin:
        return "classification" if _holds_classes(known, shape) else "mse"
    if asked == "auto":
        return task_of(known)
    by_metric = bench.metric.is_builtin and task_of(known) == "l1"
    return "l1" if by_metric else "mse"


def _holds_classes(bench: Bench, shape: tuple[int, ...]) -> bool:
    """Whether an output has a score for each of several classes, by the shape of the labels.

    With a loss of the user's own, labels may be anything.
    """
    spec = bench.training.arrays.get(TARGET) if bench.training is not None else None
    if spec is None or spec.dtype.startswith("float"):
        return False
    is_last = spec.shape == shape[1:-1] and shape[-1] > 1
    is_second = len(shape) > 2 and spec.shape == shape[2:] and shape[1] > 1
    return is_last or is_second


def _class_axis(bench: Bench, shape: Sequence[int]) -> int:
    """Where the classes are: where the labels' shape says, else second in pictures, else last."""
    for dataset in (bench.training, bench.selection):
        if dataset is None or TARGET not in dataset.arrays:
            continue
        labels = dataset.arrays[TARGET].shape
        if labels == tuple(shape[1:-1]):
            return len(shape) - 1
        if labels == tuple(shape[2:]):
            return 1
    return 1 if len(shape) == 4 else len(shape) - 1
