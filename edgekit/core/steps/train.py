"""Settings of the training loop that all training steps share."""

import math
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from edgekit.core.codec import nearest
from edgekit.core.errors import StepError
from edgekit.core.steps.rounding import Rounding
from edgekit.core.steps.search import Search

Optimizer = Literal["adamw", "sgd"]
Schedule = Literal["cosine", "linear", "constant"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Train:
    """How a model is trained.

    epochs: passes over the training data; 0 trains nothing. learning_rate: at its highest.
    momentum: of "sgd". weight_decay: of weights, not of biases and norms. schedule: how the rate
    falls to 0 after the warm-up, or stays. warmup_ratio: share of all batches during which the
    rate rises from 0. clip_norm: largest norm of the gradient; 0 clips nothing. ema_decay: of the
    moving average of the weights, which is then the result; 0 keeps none. patience: epochs without
    a better metric on the selection data after which training stops; 0 never stops early.
    has_mixed_precision: where the device has it (CUDA). label_smoothing: share of a label's weight
    that is spread over all classes. rounding: weights and static activations are seen while they
    are trained as the quantize step will store them, and weights end so; None sees them as they
    are. search: short trials of other settings before the training.
    Raises: StepError for a value outside its range, naming the setting.
    """

    epochs: int = 10
    batch_size: int = 128
    optimizer: Optimizer = "adamw"
    learning_rate: float = 1e-3
    momentum: float = 0.9
    weight_decay: float = 1e-4
    schedule: Schedule = "cosine"
    warmup_ratio: float = 0.05
    clip_norm: float = 1.0
    ema_decay: float = 0.0
    patience: int = 0
    has_mixed_precision: bool = True
    label_smoothing: float = 0.0
    rounding: Rounding | None = None
    search: Search = field(default_factory=Search)

    def __post_init__(self) -> None:
        _expect_one_of("optimizer", self.optimizer, get_args(Optimizer))
        _expect_one_of("schedule", self.schedule, get_args(Schedule))
        _expect("epochs", self.epochs, self.epochs >= 0, "0 or more")
        _expect("batch_size", self.batch_size, self.batch_size >= 1, "1 or more")
        _expect("patience", self.patience, self.patience >= 0, "0 or more")
        _expect("learning_rate", self.learning_rate, self.learning_rate > 0, "above 0")
        for name in ("weight_decay", "clip_norm"):
            value = getattr(self, name)
            _expect(name, value, value >= 0, "0 or more")
        for name in ("momentum", "ema_decay", "label_smoothing"):
            value = getattr(self, name)
            _expect(name, value, 0 <= value < 1, "0 or more and below 1")
        _expect("warmup_ratio", self.warmup_ratio, 0 <= self.warmup_ratio <= 1, "0 to 1")


def _expect(name: str, value: float, is_allowed: bool, allowed: str) -> None:
    if not (is_allowed and math.isfinite(value)):
        raise StepError(f"training: {name} is {value}; it must be {allowed}; change the setting")


def _expect_one_of(name: str, value: Any, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise StepError(f"training: {name} is '{value}'{nearest(str(value), allowed)}")
