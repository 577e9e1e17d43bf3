"""INT8 weights that no kernel of x86 without VNNI saturates, at more than 7 bits.

There two products of an unsigned activation and a signed weight, neighbours along the inputs, are
added in 16 bits before anything wider (VPMADDUBSW, Intel Architecture Software Developer's Manual,
volume 2). 255 times 128 is the most that they hold, so what must stay within 128 is the sum of the
weights of one sign in a pair; ONNX Runtime's reduced range keeps every weight within 64 for it.
Here each channel has the scale that loses least once its pairs are kept within 128, and a pair that
is beyond it gives way. Which weights are neighbours was found by running ONNX Runtime's kernels on
an emulated processor, and is tested so: along the inputs of a matrix, and along the channels of a
convolution's inputs, place after place of its kernel. Depthwise kernels never saturate.
"""

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import numpy_helper

from edgekit.compile.onnx_grid import INT8_MAX, REDUCED_MAX, Array, along, int8_scales
from edgekit.compile.onnx_layers import Layer
from edgekit.compile.onnx_model import array_of, initializers

PAIR_MAX = 2 * REDUCED_MAX
# Steps below the largest weight that are tried; REDUCED_MAX never has to give way, and finds again
# what was trained on that grid.
_TOPS = range(REDUCED_MAX, INT8_MAX + 1, 3)
_ROWS_AT_ONCE = 256
_KNOWN = ("Conv", "MatMul", "Gemm")


def unsaturated(weight: Array, layer: Layer) -> tuple[Array, Array]:
    """The integers of a weight, and the scale of each channel.

    Shapes: weight as the file has it -> the same int8, (channels,).
    """
    ordered = _in_order(weight, layer)
    rows = ordered.reshape(len(ordered), -1, ordered.shape[-1])
    rows = np.pad(rows, ((0, 0), (0, 0), (0, rows.shape[-1] % 2)))
    pairs = rows.reshape(len(rows), -1, 2)
    largest = int8_scales(weight, layer.axis) * np.float32(INT8_MAX)
    has_pairs = layer.kind != "depthwise"
    cuts = [slice(at, at + _ROWS_AT_ONCE) for at in range(0, len(rows), _ROWS_AT_ONCE)]
    parts = [_best(pairs[cut], largest[cut], has_pairs=has_pairs) for cut in cuts]
    values, scales = (np.concatenate(item) for item in zip(*parts, strict=True))
    whole = values.reshape(rows.shape)[..., : ordered.shape[-1]]
    return _as_stored(whole.reshape(ordered.shape), weight, layer), scales


def put_on_grid(
    model: onnx.ModelProto, layers: Sequence[Layer]
) -> tuple[onnx.ModelProto, dict[str, Array]]:
    """A copy whose weights are whole steps already, and the scales by the weight's name.

    Of layers whose static kernels are known.
    """
    result = onnx.ModelProto.FromString(model.SerializeToString())
    constants, found = initializers(result), {}
    for layer in (item for item in layers if item.operator in _KNOWN):
        constant = constants[layer.weight]
        weight = array_of(constant)
        values, scales = unsaturated(weight, layer)
        found[layer.weight] = scales
        floats = (values * along(scales, layer.axis, weight.ndim)).astype(np.float32)
        constant.CopyFrom(numpy_helper.from_array(floats, layer.weight))
    return result, found


def _in_order(weight: Array, layer: Layer) -> Array:
    """Channels first, what is added in pairs last: (channels, ..., inputs)."""
    if layer.operator == "Conv":
        by_place = np.moveaxis(weight, 1, -1)
        return np.ascontiguousarray(by_place).reshape(len(weight), -1)
    return np.ascontiguousarray(np.moveaxis(weight, layer.axis, 0))


def _as_stored(values: Array, weight: Array, layer: Layer) -> Array:
    """Back to the order of the file."""
    if layer.operator == "Conv":
        return np.moveaxis(values.reshape(len(weight), *weight.shape[2:], -1), -1, 1)
    return np.moveaxis(values, 0, layer.axis)


def _best(pairs: Array, largest: Array, *, has_pairs: bool) -> tuple[Array, Array]:
    """The integers of some channels and their scales. Shapes: (channels, pairs, 2), (channels,).

    has_pairs: whether the kernel adds them in 16 bits.
    """
    best, scales = np.zeros(pairs.shape, np.int8), np.ones(len(pairs), np.float32)
    error = np.full(len(pairs), np.inf)
    for top in _TOPS:
        tried = (largest / np.float32(top)).astype(np.float32)
        steps = pairs / tried[:, None, None]
        values = np.rint(steps)
        if has_pairs:
            _give_way(values, steps)
        total = ((values - steps) ** 2).sum(axis=(1, 2)) * tried.astype(np.float64) ** 2
        is_better = total < error
        best[is_better] = values[is_better].astype(np.int8)
        scales = np.where(is_better, tried, scales)
        error = np.minimum(error, total)
    return best, scales


def _give_way(values: Array, steps: Array) -> None:
    """Bring pairs of one sign back to ``PAIR_MAX``, in place: both by as much, but for a step."""
    first, second = values[..., 0], values[..., 1]
    excess = np.where(first * second > 0, np.abs(first) + np.abs(second) - PAIR_MAX, 0)
    where = np.nonzero(excess > 0)
    if not len(where[0]):
        return
    found, exact, over = values[where], steps[where], excess[where]
    signs = np.sign(found)
    found -= signs * (over // 2)[:, None]
    # The odd step goes off the one that was rounded up by more.
    gained = np.abs(found) - np.abs(exact)
    more = (gained[:, 1] > gained[:, 0]).astype(int)
    rows = np.arange(len(found))
    found[rows, more] -= signs[rows, more] * (over % 2)
    values[where] = found
