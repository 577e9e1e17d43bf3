"""Settings of distillation."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

from edgekit.core.codec import nearest
from edgekit.core.errors import StepError
from edgekit.core.steps.train import Train

Task = Literal["auto", "classification", "regression", "embedding", "language"]
StudentKind = Literal["auto", "factory", "current", "made"]
SelfKind = Literal["exits", "earlier"]

_BITS = (4, 8, 16, 32)
_WEIGHTS = ("hard", "soft", "feature", "attention", "relation", "self", "pseudo_label")


@dataclass(frozen=True, slots=True, kw_only=True)
class Distil:
    """A student is trained to do what the float model does.

    student: "auto" takes the workload's factory, else the model as earlier steps left it where
    they changed it, else one that is made here; "factory", "current" and "made" ask for one of
    them. student_ratio: share of the teacher's parameters that a made student keeps;
    student_bytes (of a file whose weights have student_bits bits each), student_macs (a sample):
    what it may have at most instead; 0 for none. task: "auto" goes by the metric and the targets.
    temperature: of the soft labels. *_weight: shares of the loss: hard labels, soft labels (for a
    regression or an embedding: the teacher's outputs), intermediate features, attention maps,
    relations between samples, the model's own deeper exits or earlier self (self_from). pairs:
    student's module path to teacher's, for features and attention maps; none takes a default.
    pseudo_label_weight: of the teacher's own labels on data without any; 0 gives none. confidence:
    pseudo-labels below it are dropped. has_class_balance: as many pseudo-labels of each class.
    synthetic_samples: how many inputs to make from the teacher where there are too few: pictures
    and the like by a search of synthetic_steps each; a causal language model (task "language")
    writes text, from the first prompt_tokens of real samples on, drawing each token at
    generation_temperature. label_shares: where train.search asks for trials, shares of the labels
    in what hard and soft labels weigh together that are tried beside the stated one.
    Raises: StepError for a value outside its range, naming the setting.
    """

    student: StudentKind = "auto"
    student_ratio: float = 0.33
    student_bytes: int = 0
    student_bits: Literal[4, 8, 16, 32] = 32
    student_macs: int = 0
    task: Task = "auto"
    temperature: float = 4.0
    hard_weight: float = 0.7
    soft_weight: float = 0.3
    feature_weight: float = 0.0
    attention_weight: float = 0.0
    relation_weight: float = 0.0
    self_weight: float = 0.0
    self_from: SelfKind = "exits"
    pairs: dict[str, str] = field(default_factory=dict)
    pseudo_label_weight: float = 0.0
    confidence: float = 0.9
    has_class_balance: bool = True
    synthetic_samples: int = 0
    synthetic_steps: int = 400
    prompt_tokens: int = 8
    generation_temperature: float = 1.0
    label_shares: tuple[float, ...] = (0.3, 0.7, 0.9)
    train: Train = field(default_factory=Train)

    def __post_init__(self) -> None:
        _expect_one_of("student", self.student, get_args(StudentKind))
        _expect("student_bits", self.student_bits, self.student_bits in _BITS, "4, 8, 16 or 32")
        _expect_one_of("task", self.task, get_args(Task))
        _expect_one_of("self_from", self.self_from, get_args(SelfKind))
        _expect("student_ratio", self.student_ratio, 0 < self.student_ratio < 1, "above 0, below 1")
        _expect("temperature", self.temperature, self.temperature > 0, "above 0")
        _expect("confidence", self.confidence, 0 <= self.confidence <= 1, "0 to 1")
        for name in ("student_bytes", "student_macs", "synthetic_samples"):
            value = getattr(self, name)
            _expect(name, value, value >= 0, "0 (for none) or more")
        for name in ("synthetic_steps", "prompt_tokens"):
            value = getattr(self, name)
            _expect(name, value, value >= 1, "1 or more")
        warmth = self.generation_temperature
        _expect("generation_temperature", warmth, warmth > 0, "above 0")
        for share in self.label_shares:
            _expect("label_shares", share, 0 < share < 1, "above 0, below 1")
        for name, weight in self.weights.items():
            _expect(f"{name}_weight", weight, weight >= 0, "0 (for none) or more")
        self._check_together()

    @property
    def weights(self) -> dict[str, float]:
        """Shares of the loss by name: hard, soft, feature, attention, relation, self, ..."""
        return {name: getattr(self, f"{name}_weight") for name in _WEIGHTS}

    def with_label_share(self, share: float) -> "Distil":
        """The same, with such a share of the labels in what hard and soft labels weigh together."""
        both = self.hard_weight + self.soft_weight
        return replace(self, hard_weight=both * share, soft_weight=both * (1 - share))

    def _check_together(self) -> None:
        if not any(self.weights.values()):
            raise StepError(
                "distil: all weights of the loss are 0, so there is nothing to learn; set one of "
                + ", ".join(f"{name}_weight" for name in _WEIGHTS)
            )
        if not self.train.epochs:
            raise StepError(
                "distil: train.epochs is 0, which teaches nothing; set 1 or more, or use the step "
                "'prune' for a smaller model that is not trained"
            )
        if self.student_bytes and self.student_macs:
            raise StepError(
                f"distil: student_bytes is {self.student_bytes} and student_macs is "
                f"{self.student_macs}; a made student is cut to one of them: leave the other at 0"
            )


def other_label_shares(
    shares: Sequence[float], hard_weight: float, soft_weight: float
) -> tuple[float, ...]:
    """Those of the shares that are not the stated one; none where one of the two weighs nothing."""
    if not (hard_weight and soft_weight):
        return ()
    stated = hard_weight / (hard_weight + soft_weight)
    return tuple(share for share in shares if not math.isclose(share, stated))


def _expect(name: str, value: float, is_allowed: bool, allowed: str) -> None:
    if not (is_allowed and math.isfinite(value)):
        raise StepError(f"distil: {name} is {value}; it must be {allowed}; change the setting")


def _expect_one_of(name: str, value: Any, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise StepError(f"distil: {name} is '{value}'{nearest(str(value), allowed)}")
