"""Settings of the step that scales weights by how large their inputs are, and rounds them."""

from dataclasses import dataclass, field

from edgekit.core.errors import StepError
from edgekit.core.steps.rounding import AUTO, Rounding, check_bias_choice


@dataclass(frozen=True, slots=True, kw_only=True)
class Awq:
    """Weights that meet large inputs are made larger before rounding, so that they lose less of it.

    rounding: the bits of each layer; its precision "auto" takes them from the quantize step of the
    strategy. is_rounded: the weights end on the grid that the artifact will store; without it they
    are scaled alone, and a step ``round`` may follow. Where they are rounded: is_clipped: the grid
    of each channel (or block) reaches as far as is best for the layer's outputs. is_bias_corrected:
    what rounding moves the mean of each output channel by is taken back, as in ``round``; "auto" is
    what that has.
    Raises: StepError for a value that is not allowed, naming the setting.
    """

    rounding: Rounding = field(default_factory=Rounding)
    is_rounded: bool = True
    is_clipped: bool = True
    is_bias_corrected: bool | str = AUTO

    def __post_init__(self) -> None:
        self.rounding.refuse_training("awq")
        check_bias_choice("awq", self.is_bias_corrected)
        if self.rounding.precision == "none":
            raise StepError(
                'awq: rounding.precision is "none", and scales are chosen by what rounding costs; '
                'set it to "auto", "int8" or "int4", or take the step out'
            )
