"""Ranges that activations were trained with, as the quantize stages get them."""

from edgekit.core.stage import StageRequest
from edgekit.graph.ranges import TrainedRange, read_ranges

ROLE = "ranges"


def trained_of(request: StageRequest) -> tuple[TrainedRange, ...]:
    """The trained ranges among a stage's inputs; none where no step trained any."""
    return read_ranges(request.folder(ROLE)) if ROLE in request.inputs else ()
