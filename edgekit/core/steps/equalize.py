"""Settings of the step that evens out the ranges of channels."""

from dataclasses import dataclass

from edgekit.core.errors import StepError


@dataclass(frozen=True, slots=True, kw_only=True)
class Equalize:
    """Channels are made larger in one layer and smaller in the next until both have one range.

    sweeps: over all pairs of layers, at most; it ends when nothing moves any more.
    Raises: StepError for a value outside its range, naming the setting.
    """

    sweeps: int = 40

    def __post_init__(self) -> None:
        if self.sweeps < 1:
            raise StepError(
                f"equalize: sweeps is {self.sweeps}; it must be 1 or more; change the setting"
            )
