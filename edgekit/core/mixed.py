"""Settings of mixed precision: a budget, and the precisions that a layer may get."""

from dataclasses import dataclass
from typing import Literal

from edgekit.core.errors import StepError

Candidate = Literal["int8", "int4", "fp16", "float"]

# From the fewest bits to the most.
WIDTHS: dict[str, int] = {"int4": 4, "int8": 8, "fp16": 16, "float": 32}
INTEGERS = ("int8", "int4")


@dataclass(frozen=True, slots=True, kw_only=True)
class Mixed:
    """Which layer gets which precision is solved for: the least error within a budget.

    candidates: precisions that a layer may get. max_bytes: of the artifact as it ships.
    max_weight_bytes: of the planned layers' weights with the scales of their blocks, whatever the
    format: the same plan for every target. max_latency_ratio: of the float artifact's time, by an
    estimate. 0 is no budget; where none is given, the profile's own limit on bytes is one. Several
    hold together. samples: of the calibration data on which errors are measured. metric_layers: so
    many of the layers with the largest errors are judged by the metric too.
    Raises: StepError for a value that is not allowed, naming the setting.
    """

    candidates: tuple[Candidate, ...] = ("int8", "int4")
    max_bytes: int = 0
    max_weight_bytes: int = 0
    max_latency_ratio: float = 0.0
    samples: int = 128
    metric_layers: int = 3

    def __post_init__(self) -> None:
        if len(set(self.candidates)) < 2 or not set(self.candidates).intersection(INTEGERS):
            raise StepError(
                f"mixed: candidates are {', '.join(self.candidates) or 'none'}; at least two "
                f"different ones are needed, int8 or int4 among them; allowed: {', '.join(WIDTHS)}"
            )
        for name in ("max_bytes", "max_weight_bytes", "max_latency_ratio", "metric_layers"):
            value = getattr(self, name)
            if value < 0:
                raise StepError(f"mixed: {name} is {value}; it must be 0 (none) or more")
        if self.samples < 1:
            raise StepError(f"mixed: samples is {self.samples}; it must be 1 or more")

    @property
    def base(self) -> Candidate:
        """What layers get that no plan knows: the most bits of the integer candidates."""
        return "int8" if "int8" in self.candidates else "int4"

    @property
    def has_budget(self) -> bool:
        """Whether a budget is stated here."""
        return bool(self.max_bytes or self.max_weight_bytes or self.max_latency_ratio)

    def ordered(self) -> tuple[Candidate, ...]:
        """The candidates from the fewest bits to the most."""
        return tuple(sorted(set(self.candidates), key=lambda name: WIDTHS[name]))
