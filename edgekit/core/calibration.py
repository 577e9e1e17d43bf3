"""Settings of calibration: how the ranges of static activations are found."""

import math
from dataclasses import dataclass, fields
from typing import Literal, get_args

from edgekit.core.codec import nearest
from edgekit.core.errors import StepError

CalibrationMethod = Literal["auto", "min_max", "moving_average", "percentile", "entropy", "mse"]
# Settings that one method alone has a use for.
_OF_METHOD = {"percentile": "percentile", "momentum": "moving_average"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """How the range of each activation follows from the calibration samples.

    method: "min_max" spans all that was seen, "moving_average" the averaged extremes of single
    runs, "percentile" leaves (100 - percentile) percent of the values outside, half of them at
    either end; "entropy" and "mse" clip where the distribution, or the values, change least;
    "auto" takes what measured best (docs/strategies.md). percentile: of "percentile". momentum: the
    share of the average that a run leaves as it was, of "moving_average". samples: the first so
    many are used; 0 takes all.
    Raises: StepError for a value outside its range and for one that the method has no use for,
    naming the setting.
    """

    method: CalibrationMethod = "auto"
    percentile: float = 99.99
    momentum: float = 0.95
    samples: int = 0

    def __post_init__(self) -> None:
        if self.method not in get_args(CalibrationMethod):
            near = nearest(str(self.method), get_args(CalibrationMethod))
            raise StepError(f"quantize: calibration.method is '{self.method}'{near}")
        share = self.percentile
        _expect("percentile", share, 50 < share <= 100, "above 50 and at most 100")
        _expect("momentum", self.momentum, 0 <= self.momentum < 1, "0 or more and below 1")
        _expect("samples", self.samples, self.samples >= 0, "0 (for all) or more")
        self._refuse_unused()

    def _refuse_unused(self) -> None:
        for item in fields(self):
            value, method = getattr(self, item.name), _OF_METHOD.get(item.name, self.method)
            if value != item.default and method != self.method:
                raise StepError(
                    f"quantize: calibration.{item.name} is {value}, and method '{self.method}' has "
                    f'no use for it; set calibration.method to "{method}", or take it out'
                )


def _expect(name: str, value: float, is_allowed: bool, allowed: str) -> None:
    if not (is_allowed and math.isfinite(value)):
        raise StepError(
            f"quantize: calibration.{name} is {value}; it must be {allowed}; change the setting"
        )
