"""Settings of the step that rounds weights before they are exported."""

from dataclasses import dataclass, field
from math import isfinite
from typing import Literal, get_args

from edgekit.core.codec import nearest
from edgekit.core.errors import StepError
from edgekit.core.steps.rounding import AUTO, Rounding, check_bias_choice

RoundMethod = Literal["gptq", "adaround", "nearest"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AdaRound:
    """How it is learned whether a weight goes up or down.

    iterations: for each layer. batch_size: places (pixels, tokens) that one iteration sees.
    regularizer: weight of what drives each weight to a decision, where the error of a layer that is
    rounded to nearest counts 1 for each weight. warm_up_ratio: of the iterations, at the beginning,
    without it. first_beta, last_beta: its exponent falls from the one to the other. sample_bytes:
    of a layer's inputs and outputs that are held; of more, some are drawn.
    Raises: StepError for a value outside its range, naming the setting.
    """

    iterations: int = 1000
    batch_size: int = 256
    learning_rate: float = 0.01
    regularizer: float = 10.0
    warm_up_ratio: float = 0.2
    first_beta: float = 20.0
    last_beta: float = 2.0
    sample_bytes: int = 64 * 2**20

    def __post_init__(self) -> None:
        least = {"iterations": 1, "batch_size": 1, "sample_bytes": 2**20}
        for name, bound in least.items():
            if getattr(self, name) < bound:
                raise _wrong(name, getattr(self, name), f"{bound} or more")
        for name in ("learning_rate", "regularizer"):
            value = getattr(self, name)
            if not (isfinite(value) and value > 0):
                raise _wrong(name, value, "a number above 0")
        if not 0 <= self.warm_up_ratio < 1:
            raise _wrong("warm_up_ratio", self.warm_up_ratio, "at least 0 and below 1")
        if not 1 < self.last_beta <= self.first_beta < float("inf"):
            betas = f"{self.first_beta} and {self.last_beta}"
            raise _wrong("first_beta and last_beta", betas, "above 1, the last not above the first")


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """Weights are put on the grid of integers that the artifact will store, by calibration data.

    method: "gptq" rounds a layer's columns one after another, and each makes up for those before;
    "adaround" learns for each weight whether it goes up or down, layer after layer; "nearest"
    rounds each weight by itself. All choose the step of each channel (or block) by what it loses.
    is_bias_corrected: what rounding moves the mean of each output channel by is taken back, where
    there is a bias, a batch norm or a convolution to take it; "auto" tries it with half of the
    calibration data, and keeps what gives the smaller error of the outputs on the other half.
    adaround: how that method learns.
    rounding: the bits of each layer; its precision "auto" takes them from the quantize step of the
    strategy.
    Raises: StepError for a value that is not allowed, naming the setting.
    """

    method: RoundMethod = "gptq"
    is_bias_corrected: bool | str = AUTO
    adaround: AdaRound = field(default_factory=AdaRound)
    rounding: Rounding = field(default_factory=Rounding)

    def __post_init__(self) -> None:
        self.rounding.refuse_training("round")
        check_bias_choice("round", self.is_bias_corrected)
        allowed = get_args(RoundMethod)
        if self.method not in allowed:
            raise StepError(f"round: method is '{self.method}'{nearest(self.method, allowed)}")
        if self.method != "adaround" and self.adaround != AdaRound():
            raise StepError(
                f"round: adaround has settings and method is '{self.method}', which uses none of "
                'them; set method to "adaround", or take them out'
            )
        if self.rounding.precision == "none":
            raise StepError(
                'round: rounding.precision is "none", which rounds nothing; set it to "auto", '
                '"int8" or "int4", or take the step out'
            )


def _wrong(name: str, value: object, allowed: str) -> StepError:
    return StepError(f"round: adaround.{name} is {value}; it must be {allowed}; change the setting")
