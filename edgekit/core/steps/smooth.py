"""Settings of the step that moves the difficulty of activations into weights."""

from dataclasses import dataclass

from edgekit.core.errors import StepError

AUTO = "auto"


@dataclass(frozen=True, slots=True, kw_only=True)
class Smooth:
    """Channels of activations get like ranges, and the weights that read them make up for it.

    strength: how much of the range moves, from 0 (the weights' ranges become one) to 1 (the
    activations' do); "auto" tries many for each group of layers and takes the one whose outputs in
    INT8 are nearest to the float ones, or leaves the group as it is. has_multipliers: linear
    layers behind what can take no scales (sums, activation functions, norms that also lead into a
    sum) multiply their inputs by channel themselves. may_change_nothing: a model that gains nothing
    stays bit for bit as it was, which is reported; else that is an error.
    Raises: StepError for a value outside its range, naming the setting.
    """

    strength: float | int | str = AUTO
    has_multipliers: bool = False
    may_change_nothing: bool = False

    def __post_init__(self) -> None:
        is_number = isinstance(self.strength, (float, int)) and self.strength is not True
        if self.strength == AUTO or (is_number and 0 <= float(self.strength) <= 1):
            return
        raise StepError(
            f"smooth: strength is {self.strength!r}; it must be a number from 0 to 1, or "
            '"auto"; change the setting'
        )
