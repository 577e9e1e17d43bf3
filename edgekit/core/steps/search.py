"""Settings of the trials before a training."""

import math
from dataclasses import dataclass

from edgekit.core.errors import StepError


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """Short trainings with other settings, judged on the selection data; the best one's are taken.

    epochs: of each trial, at most those of the training itself; 0 tries nothing. rate_factors:
    learning_rate times each of these is tried beside the rate that is stated.
    Raises: StepError for a value outside its range, naming the setting.
    """

    epochs: int = 0
    rate_factors: tuple[float, ...] = (0.3, 3.0)

    def __post_init__(self) -> None:
        if self.epochs < 0:
            raise StepError(
                f"search: epochs is {self.epochs}; it must be 0 (nothing is tried) or more; change "
                "the setting"
            )
        for factor in self.rate_factors:
            if not (math.isfinite(factor) and factor > 0):
                raise StepError(
                    f"search: rate_factors has {factor}; each must be above 0; change the setting"
                )
