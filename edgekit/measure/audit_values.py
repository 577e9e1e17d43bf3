"""Whether quantized weights still stand for the float weights, and whether scales make sense."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from edgekit.core.errors import InputError
from edgekit.graph.grid import WeightGrid, weight_grid, weight_quantization
from edgekit.graph.model import Array, Graph, TensorInfo, TensorQuantization
from edgekit.graph.weights import BLOCK_PACKED, FLOAT8, NF4, WeightLayer

# Rounding to a grid is off by 0.29 steps (root of 1/12) on average and by half a step at most.
# Clipping and GPTQ move a few weights further; a scale that is wrong by a factor moves all.
_MOST_STEPS_OFF = 0.75
# The error of one group of weights against their size, above which steps are looked at.
_GROUP_ERROR = {"int8": 0.02, "int16": 0.001, "int4": 0.3, "int2": 0.6, NF4: 0.3}
# Half a step of an 8-bit float is at most this share of its value. NF4 has levels that are 0.304
# scales apart, so no weight is further off than half of that.
_FLOAT8_ERROR = {"float8_e4m3fn": 2**-4, "float8_e5m2": 2**-3}
_MOST_OFF = {NF4: 0.16, **dict.fromkeys(FLOAT8, 0.0)}
# The error of the whole layer that no rounding explains: nothing is left of the weights.
_LAYER_ERROR = {"int8": 0.25, "int16": 0.01, "int4": 0.8, "int2": 0.95, NF4: 0.5, **_FLOAT8_ERROR}
# 11 bits of a float16 give 0.0005 at worst, 8 of a bfloat16 0.004; float32 is only ever copied.
_FLOAT_ERROR, _BFLOAT_ERROR = 0.001, 0.004
# Same direction whatever the gain: for weights that a multiplication was folded into.
_LEAST_COSINE = {"int8": 0.98, "int16": 0.999, "int4": 0.8, "int2": 0.5, NF4: 0.9}


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaleFault:
    """A tensor whose scales cannot be: why, in words."""

    tensor: str
    what: str
    elements: int


def scale_faults(graph: Graph) -> Iterator[ScaleFault]:
    """Every quantized tensor whose scales are not positive numbers, or not as many as needed."""
    for subgraph in graph.subgraphs:
        for info in subgraph.tensors:
            if info.quantization is not None:
                what = _scale_fault(info, info.quantization)
                if what:
                    yield ScaleFault(tensor=info.name, what=what, elements=info.elements)


def _scale_fault(info: TensorInfo, quantization: TensorQuantization) -> str:
    fault = _number_fault(quantization.scales)
    if fault or not info.is_rank_known:
        return fault
    wanted = _scale_counts(info, quantization)
    found = len(quantization.scales)
    if wanted and found not in wanted:
        return f"{found} scales where {' or '.join(map(str, sorted(wanted)))} belong"
    if len(quantization.zero_points) not in (1, found):
        return f"{len(quantization.zero_points)} zero points for {found} scales"
    return ""


def _number_fault(scales: Array) -> str:
    if not len(scales):
        return "no scale"
    if not np.isfinite(scales).all():
        return f"scale {scales[~np.isfinite(scales)][0]}"
    if (scales <= 0).any():
        return f"scale {scales[scales <= 0][0]}, which is not positive"
    return ""


def _scale_counts(info: TensorInfo, quantization: TensorQuantization) -> set[int]:
    """How many scales there may be; empty where an axis is not known."""
    rank, block = len(info.shape), quantization.block_size
    axis = quantization.axis + rank if quantization.axis < 0 else quantization.axis
    if not 0 <= axis < max(rank, 1) or not info.elements:
        return set()
    size = info.shape[axis] if rank else 1
    if block:
        return {info.elements // size * -(-size // block)}
    return {1, size}


def layer_scale_fault(graph: Graph, layer: WeightLayer) -> str:
    """As ``scale_faults``, for scales that are inputs of the layer's operator."""
    if layer.tensor.quantization is not None:
        return ""  # among scale_faults
    quantization = weight_quantization(graph, layer)
    if quantization is None:
        return ""
    if layer.operator.name not in BLOCK_PACKED:
        return _number_fault(quantization.scales)
    # ONNX Runtime's blocks may have negative scales, and zero for a block of zeros.
    scales = np.abs(quantization.scales)
    return _number_fault(np.where(scales == 0, 1, scales) if scales.any() else scales)


def value_fault(
    float_graph: Graph, float_layer: WeightLayer, graph: Graph, layer: WeightLayer
) -> str:
    """Why the layer's weights are not the float layer's, in words; "" where they are."""
    try:
        grid = weight_grid(graph, layer)
        wanted = weight_grid(float_graph, float_layer)
    except InputError as unreadable:
        return f"its weights cannot be read: {unreadable}"
    if grid is None or wanted is None:
        return "the file does not say what its integers stand for"
    if not np.isfinite(grid.values).all():
        return "NaN or infinity among its weights"
    if layer.tensor.name.startswith("Conv") and "Fusion" in layer.tensor.name:
        return _direction_fault(wanted.values, grid, layer.precision)
    faults = [_difference(item, grid, layer) for item in layouts(wanted.values, layer.shape)]
    if not faults:
        return f"shape {list(layer.shape)} where the float layer has {list(float_layer.shape)}"
    return "" if "" in faults else faults[0]


def layouts(values: Array, shape: tuple[int, ...]) -> Iterator[Array]:
    """The float weight as the quantized one may hold it: the same, transposed, or reshaped."""
    candidates = [values]
    if values.ndim in (2, 3):  # 3: the weights of a recurrent layer, a direction each
        candidates.append(np.ascontiguousarray(np.swapaxes(values, -1, -2)))
    for candidate in candidates:
        if candidate.size == np.prod(shape):
            yield candidate.reshape(shape)


def _difference(wanted: Array, grid: WeightGrid, layer: WeightLayer) -> str:
    error = (grid.values.astype(np.float64) - wanted) ** 2
    size = float(np.sqrt(np.square(wanted, dtype=np.float64).sum()))
    relative = float(np.sqrt(error.sum())) / size if size else float(error.any())
    if not len(grid.scales):
        limit = _BFLOAT_ERROR if layer.precision == "bfloat16" else _FLOAT_ERROR
        return _said(relative) if relative > _FLOAT8_ERROR.get(layer.precision, limit) else ""
    if relative > _LAYER_ERROR.get(layer.precision, 1.0):
        return _said(relative)
    wrong, groups = _wrong_groups(error, wanted, grid, layer)
    if wrong:
        return f"{wrong} of its {groups} scales do not fit the float weights"
    return ""


def _said(relative: float) -> str:
    return f"its weights differ from the float weights by {relative:.3g} of their size"


def _wrong_groups(
    error: Array, wanted: Array, grid: WeightGrid, layer: WeightLayer
) -> tuple[int, int]:
    """(groups whose values are off by more than rounding can be, groups)."""
    groups = np.broadcast_to(grid.groups, error.shape).reshape(-1)
    count = len(grid.scales)
    members = np.maximum(np.bincount(groups, minlength=count), 1)
    steps = np.maximum(np.abs(grid.scales), np.finfo(np.float32).tiny)
    steps_off = np.sqrt(np.bincount(groups, error.reshape(-1), count) / members) / steps
    energy = np.bincount(groups, np.square(wanted, dtype=np.float64).reshape(-1), count)
    share = np.bincount(groups, error.reshape(-1), count) / np.maximum(energy, 1e-30)
    limit = {**_GROUP_ERROR, **_FLOAT8_ERROR}.get(layer.precision, 1.0)
    most_steps = _MOST_OFF.get(layer.precision, _MOST_STEPS_OFF)
    wrong = (steps_off > most_steps) & (np.sqrt(share) > limit)
    return int(wrong.sum()), count


def _direction_fault(wanted: Array, grid: WeightGrid, precision: str) -> str:
    """Weights that absorbed a factor a channel keep their direction in each channel."""
    if wanted.shape != grid.values.shape:
        return f"shape {list(grid.values.shape)} where the float layer has {list(wanted.shape)}"
    rows = wanted.reshape(len(wanted), -1).astype(np.float64)
    found = grid.values.reshape(rows.shape).astype(np.float64)
    norms = np.linalg.norm(rows, axis=1) * np.linalg.norm(found, axis=1)
    cosines = np.abs((rows * found).sum(axis=1))[norms > 0] / norms[norms > 0]
    if (cosines < _LEAST_COSINE.get(precision, 0.999)).any():
        return f"the direction of its weights changed (cosine {cosines.min():.3g})"
    return ""
