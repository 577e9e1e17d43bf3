"""Settings of the step that rotates channels so that no few of them are large."""

from dataclasses import dataclass
from typing import Literal, get_args

from edgekit.core.errors import StepError

Rotation = Literal["stream", "values"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rotate:
    """Channels are mixed by orthogonal matrices that are merged into the weights around them.

    rotations: "stream" mixes what runs through a transformer beside its blocks, "values" what each
    head of an attention gives. may_untie: an output layer that shares its weight with the embedding
    gets one of its own where the last norm's weight must go into it, which adds that many bytes;
    without it such a stream stays as it is.
    Raises: StepError for a rotation that is not known, or none.
    """

    rotations: tuple[Rotation, ...] = ("stream", "values")
    may_untie: bool = False

    def __post_init__(self) -> None:
        known = get_args(Rotation)
        wrong = [name for name in self.rotations if name not in known]
        if self.rotations and not wrong:
            return
        what = f"has {wrong[0]!r}" if wrong else "is empty"
        raise StepError(
            f"rotate: rotations {what}; it may hold {' and '.join(repr(name) for name in known)}; "
            "change the setting"
        )
