"""Settings of the step that rounds weights before they are exported."""

from dataclasses import dataclass, field
from typing import Literal, get_args

from edgekit.core.codec import nearest
from edgekit.core.errors import StepError
from edgekit.core.steps.rounding import Rounding

RoundMethod = Literal["gptq", "nearest"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """Weights are put on the grid of integers that the artifact will store, by calibration data.

    method: "gptq" rounds a layer's columns one after another, and each makes up for those before;
    "nearest" rounds each weight by itself. Both choose the step of each channel (or block) by what
    it loses. rounding: the bits of each layer; its precision "auto" takes them from the quantize
    step of the strategy.
    Raises: StepError for a value that is not allowed, naming the setting.
    """

    method: RoundMethod = "gptq"
    rounding: Rounding = field(default_factory=Rounding)

    def __post_init__(self) -> None:
        allowed = get_args(RoundMethod)
        if self.method not in allowed:
            raise StepError(f"round: method is '{self.method}'{nearest(self.method, allowed)}")
        if self.rounding.precision == "none":
            raise StepError(
                'round: rounding.precision is "none", which rounds nothing; set it to "auto", '
                '"int8" or "int4", or take the step out'
            )
