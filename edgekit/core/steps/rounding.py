"""Settings of training with rounded weights."""

from dataclasses import dataclass
from typing import Literal, get_args

from edgekit.core.codec import nearest
from edgekit.core.errors import StepError
from edgekit.core.strategy import Override

RoundedTo = Literal["auto", "int8", "int4", "none"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rounding:
    """Weights are seen, while they are trained, as integers of few bits will hold them.

    precision: of layers with weights, as the quantize step has it; "auto" takes it, and all the
    rest, from the quantize step of the strategy, "none" rounds nothing. block_size: columns of a
    linear layer that share a scale; 0 is a scale for each output channel. keep_first_last_int8:
    with "int4" the first and the last layer are seen at 8 bits. is_range_reduced: 8 bits go from
    -64 to 64.
    overrides: other precisions by module path; of several that match a layer the last one counts.
    Raises: StepError for a value that is not allowed, naming the setting.
    """

    precision: RoundedTo = "auto"
    block_size: int = 0
    keep_first_last_int8: bool = True
    is_range_reduced: bool = False
    overrides: tuple[Override, ...] = ()

    def __post_init__(self) -> None:
        allowed = get_args(RoundedTo)
        if self.precision not in allowed:
            near = nearest(str(self.precision), allowed)
            raise StepError(f"rounding: precision is '{self.precision}'{near}")
        if self.block_size < 0:
            raise StepError(
                f"rounding: block_size is {self.block_size}; it must be 0 (a scale for each output "
                "channel) or more; change the setting"
            )
