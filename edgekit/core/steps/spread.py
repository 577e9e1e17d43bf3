"""Settings of the step that gives the outputs of linear layers one range for all channels."""

from dataclasses import dataclass

from edgekit.core.errors import StepError
from edgekit.core.steps.patterns import check_pattern


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """Linear layers give even channels, and a multiplication behind them gives back their ranges.

    limit: a layer is changed where the largest value of its largest output channel is more than
    so many times that of the median channel. ignore: patterns (regular expressions) of the paths
    of layers to leave as they are. may_change_nothing: a model that gains nothing stays bit for bit
    as it was, which is reported; else that is an error.
    Raises: StepError for a value outside its range, naming the setting.
    """

    limit: float | int = 8.0
    ignore: tuple[str, ...] = ()
    may_change_nothing: bool = False

    def __post_init__(self) -> None:
        is_number = isinstance(self.limit, (float, int)) and self.limit is not True
        # An infinite one, or NaN, would leave every layer as it is.
        if not is_number or not 1 < self.limit < float("inf"):
            raise StepError(
                f"spread: limit is {self.limit!r}; it must be a number above 1; change the setting"
            )
        for pattern in self.ignore:
            check_pattern("spread: ignore", pattern)
