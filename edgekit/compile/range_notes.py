"""What must be said of tensors whose calibrated range is none, or does not hold zero."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from edgekit.compile.range_observer import Observer, Range

NAMED_TENSORS = 3
# What a tensor gets that was always zero: any grid holds zero.
UNIT = 1.0
# The least normal float32: kernels take smaller scales for 0, or refuse them.
LEAST_STEP = float(np.finfo(np.float32).tiny)


def has_steps(found: Range, steps: int) -> bool:
    """Whether a range's steps are normal float32 numbers, as scales must be."""
    return found[1] - found[0] >= steps * LEAST_STEP


def tensor_notes(
    observers: Mapping[str, Observer], found: Mapping[str, Range], steps: int
) -> Iterator[str]:
    """What must be said of tensors without a range, or with one that does not hold zero."""
    flat = [name for name in observers if not has_steps(found[name], steps)]
    zeros = [name for name in flat if observers[name].extremes == (0.0, 0.0)]
    if zeros:
        yield (
            f"calibration: {_named(zeros)} 0 in all samples, so the range is a guess (up to "
            f"{UNIT:g}); give samples in which other values come up"
        )
    tiny = [name for name in flat if name not in zeros]
    if tiny:
        yield (
            f"calibration: {_named(tiny)} so near 0 in all samples that the steps would be below "
            f"{LEAST_STEP:.2g}, the least scale, and becomes 0; multiply it up in the model"
        )
    left = {
        name: steps * _share_used(item.extremes, found[name])
        for name, item in observers.items()
        if name not in flat and _is_beside(item.extremes)
    }
    if left:
        yield (
            f"calibration: {_named(list(left))} never 0; the range was widened to hold it, as "
            f"integers must: at least {min(left.values()):.0f} of {steps} steps are left for the "
            "values"
        )


def _is_beside(extremes: Range) -> bool:
    return extremes[0] > 0 or extremes[1] < 0


def _share_used(extremes: Range, found: Range) -> float:
    """How much of a range lies between a tensor's extremes."""
    return (min(extremes[1], found[1]) - max(extremes[0], found[0])) / (found[1] - found[0])


def _named(names: Sequence[str]) -> str:
    """The first few names, with the verb for what is said of them."""
    more = f" and {len(names) - NAMED_TENSORS} more" if len(names) > NAMED_TENSORS else ""
    shown = ", ".join(f"'{name}'" for name in names[:NAMED_TENSORS])
    return f"tensors {shown}{more} are" if len(names) > 1 else f"tensor {shown} is"
