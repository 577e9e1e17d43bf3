"""Settings of training with rounded weights and activations."""

from dataclasses import dataclass
from typing import Literal, get_args

from edgekit.core.codec import nearest
from edgekit.core.errors import StepError
from edgekit.core.strategy import Override

RoundedTo = Literal["auto", "int8", "int4", "none"]
RoundedActivations = Literal["auto", "static", "none"]
RoundingMethod = Literal["straight_through", "lsq"]

# What these say is of training alone, with what a step that trains nothing may have.
_OF_TRAINING = {"method": ("straight_through",), "activations": ("auto", "none")}
AUTO = "auto"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rounding:
    """Weights and activations are seen, while they are trained, as few-bit integers hold them.

    precision: of layers with weights, as the quantize step has it; "auto" takes it, and all the
    rest, from the quantize step of the strategy, "none" rounds nothing. activations: "static" sees
    those that the artifact stores as 8-bit integers so, each with one range; "none" sees them as
    they are; "auto" is what the quantize step has, and "none" without one. method:
    "straight_through" keeps the step of each channel at its largest weight and follows ranges by a
    moving average; "lsq" learns steps and ranges with the weights.
    block_size: columns of a linear layer that share a scale; 0 is a scale for each output channel.
    has_short_blocks: of columns that are no whole blocks the last block is a short one, as .onnx
    stores them; without it such a layer has a scale for each channel, as on LiteRT.
    keep_first_last_int8: with "int4" the first and the last layer are seen at 8 bits.
    is_range_reduced: 8 bits go from -64 to 64. has_symmetric_activations: ranges of activations
    reach as far below zero as above it.
    overrides: other precisions by module path; of several that match a layer the last one counts.
    Raises: StepError for a value that is not allowed, naming the setting.
    """

    precision: RoundedTo = "auto"
    activations: RoundedActivations = "auto"
    method: RoundingMethod = "straight_through"
    block_size: int = 0
    has_short_blocks: bool = False
    keep_first_last_int8: bool = True
    is_range_reduced: bool = False
    has_symmetric_activations: bool = False
    overrides: tuple[Override, ...] = ()

    def __post_init__(self) -> None:
        for name, kind in (
            ("precision", RoundedTo),
            ("activations", RoundedActivations),
            ("method", RoundingMethod),
        ):
            value, allowed = getattr(self, name), get_args(kind)
            if value not in allowed:
                raise StepError(f"rounding: {name} is '{value}'{nearest(str(value), allowed)}")
        if self.block_size < 0:
            raise StepError(
                f"rounding: block_size is {self.block_size}; it must be 0 (a scale for each output "
                "channel) or more; change the setting"
            )

    def refuse_training(self, step: str) -> None:
        """Refuse what only training has a use for.

        Raises: StepError naming the setting of this step, which trains nothing.
        """
        for name, allowed in _OF_TRAINING.items():
            value = getattr(self, name)
            if value not in allowed:
                raise StepError(
                    f'{step}: rounding.{name} is "{value}", which is about training, and this step '
                    f"trains nothing; take it out, or set it in the rounding of a step that trains "
                    "('train', 'distil')"
                )


def check_bias_choice(step: str, value: bool | str) -> None:
    """Refuse a choice of bias correction that is none.

    Raises: StepError naming the setting.
    """
    if value not in (True, False, AUTO):
        raise StepError(
            f'{step}: is_bias_corrected is {value!r}; it must be true, false or "auto" (which '
            "keeps what gives the smaller error of the outputs); change the setting"
        )
