"""Which tensors of a float ONNX model stand for the points that a training rounded."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import islice

import onnx

from edgekit.compile.calibration import Range
from edgekit.compile.onnx_model import array_of, initializers
from edgekit.compile.onnx_ranges import Samples, observe, watch
from edgekit.graph.ranges import (
    PRINTED_SAMPLES,
    Fingerprint,
    FoundRanges,
    TrainedRange,
    find_ranges,
    fingerprint,
)

# Of an activation's bound: a learned range ends there but for float32's rounding.
_SAME = 1e-5


def trained_ranges(
    model: onnx.ModelProto,
    trained: Sequence[TrainedRange],
    samples: Samples,
    *,
    excluded: Iterable[str] = (),
) -> FoundRanges:
    """The trained ranges by tensor name. excluded: nodes that stay float.

    The model is run on the first calibration samples, one at a time.
    Raises: StepError for samples that the model does not take.
    """
    if not trained:
        return FoundRanges(known={})
    if samples.is_batch_fixed and samples.batch != 1:
        return FoundRanges(known={}, missing=tuple(item.point for item in trained))
    watched = watch(model, {node.op_type for node in model.graph.node}, excluded=excluded)
    prints: dict[str, list[Fingerprint]] = {name: [] for name in watched.names}
    runs = observe(model, watched, replace(samples, batch=1))
    for run in islice(runs, PRINTED_SAMPLES):
        for name, values in run.tensors.items():
            prints[name].append(fingerprint(values))
    return find_ranges(trained, prints)


def has_loose_activations(model: onnx.ModelProto, known: Mapping[str, Range]) -> bool:
    """Whether a known range reaches past what its ReLU or clip lets through.

    ONNX Runtime's quantizer takes such nodes out, because the integers' own ends clip as they do.
    """
    constants = initializers(model)
    for node in model.graph.node:
        low, high = known.get(node.output[0], (0.0, 0.0))
        if node.op_type == "Relu" and low < 0:
            return True
        if node.op_type == "Clip":
            ends = [
                float(array_of(constants[name])) if name in constants else None
                for name in (*node.input[1:3], "", "")[:2]
            ]
            is_below = ends[0] is not None and low < ends[0] - _SAME * abs(ends[0])
            is_above = ends[1] is not None and high > ends[1] + _SAME * abs(ends[1])
            if is_below or is_above:
                return True
    return False
