"""Static integers: ranges of activations from calibration, then QDQ by ONNX Runtime's quantizer."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnxruntime.quantization import (
    QuantFormat,
    QuantType,
    quantize_static,
)
from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

from edgekit.compile.calibration import Calibrated, Range, centred
from edgekit.compile.onnx_biases import keep_biases_float
from edgekit.compile.onnx_gemms import join_biases
from edgekit.compile.onnx_grid import has_zero_channel, int4_scales, int8_scales
from edgekit.compile.onnx_islands import PRODUCTS
from edgekit.compile.onnx_layers import Layer
from edgekit.compile.onnx_model import array_of, explained, initializers, name_nodes, open_session
from edgekit.compile.onnx_ranges import Samples, calibrate, save_ranges
from edgekit.compile.onnx_trained import has_loose_activations
from edgekit.compile.onnx_unsaturated import put_on_grid
from edgekit.core.strategy import Quantize

# (signed, unsigned) by bits.
_ACTIVATION_TYPES = {
    8: (QuantType.QInt8, QuantType.QUInt8),
    16: (QuantType.QInt16, QuantType.QUInt16),
}
# Recurrent layers have no static integer kernel; embeddings are stored by ``onnx_store``.
STATIC_KINDS = ("conv", "depthwise", "matrix")
# The two registries are dicts and quantize_static's own default is a list of a set of them, in an
# order that changes from process to process.
OPERATORS = sorted(set(QLinearOpsRegistry) | set(QDQRegistry) - {"Gather"})

_TOKEN, _RENAMED = "_token_", "_fused_"


@dataclass(frozen=True, slots=True, kw_only=True)
class StaticPlan:
    """What the static quantizer is to do: layers at 8 and at 4 bits, nodes left float.

    has_float_products: products of matrices give floats, for the nodes between them.
    """

    int8: tuple[Layer, ...]
    int4: tuple[Layer, ...]
    excluded: tuple[str, ...]
    has_float_products: bool = False


def preprocess(model: onnx.ModelProto, scratch: Path) -> onnx.ModelProto:
    """The graph after ONNX Runtime's portable fusions, with all shapes that can be inferred.

    The same as its ``quant_pre_process``, which logs an optimizer's failure and goes on without.
    Raises: CompileError when ONNX Runtime refuses the model.
    """
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(scratch / "preprocessed.onnx")
    open_session(model.SerializeToString(), options=options)
    fused = onnx.load_model(scratch / "preprocessed.onnx")
    _rename_tokens(fused)
    name_nodes(fused)
    inferred = onnx.shape_inference.infer_shapes(fused, data_prop=True)
    join_biases(inferred)
    return onnx.shape_inference.infer_shapes(inferred, data_prop=True)


def _rename_tokens(model: onnx.ModelProto) -> None:
    """Other names for what ONNX Runtime's fusions made.

    The next session makes some too, begins to count anew, and refuses the model for a name that it
    finds taken (1.31.1).
    """
    for item in (*model.graph.initializer, *model.graph.value_info):
        item.name = item.name.replace(_TOKEN, _RENAMED)
    for node in model.graph.node:
        for names in (node.input, node.output):
            names[:] = [name.replace(_TOKEN, _RENAMED) for name in names]


def quantize(
    model: onnx.ModelProto,
    plan: StaticPlan,
    settings: Quantize,
    samples: Samples,
    scratch: Path,
    known: Mapping[str, Range] | None = None,
) -> tuple[onnx.ModelProto, Calibrated]:
    """The model with integer weights and activations in QDQ form, and the ranges that it has.

    known: ranges by tensor that win over the calibration's.
    Raises: StepError when calibration gives ranges that are not finite.
    """
    source, result, ranges = scratch / "in.onnx", scratch / "out.onnx", scratch / "ranges.json"
    found = calibrate(model, OPERATORS, samples, settings, excluded=plan.excluded, known=known)
    is_centred = settings.has_symmetric_activations
    kept = centred(found.ranges, settings.activation_bits) if is_centred else found.ranges
    save_ranges(kept, ranges)
    ready: onnx.ModelProto = model
    scales: Mapping[str, NDArray[Any]] = {}
    if settings.is_range_reduced and not settings.is_per_tensor:
        ready, scales = put_on_grid(model, plan.int8)
    onnx.save_model(ready, source)
    with explained("ONNX Runtime's static quantizer"):
        quantize_static(
            str(source),
            str(result),
            calibration_cache_path=ranges,
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=OPERATORS,
            per_channel=not settings.is_per_tensor,
            reduce_range=settings.is_range_reduced,
            activation_type=_activation_type(settings),
            weight_type=QuantType.QInt8,
            nodes_to_exclude=sorted(plan.excluded),
            extra_options={
                "TensorQuantOverrides": _overrides(model, plan, settings, scales),
                "OpTypesToExcludeOutputQuantization": list(PRODUCTS)
                if plan.has_float_products
                else [],
                # A ReLU may leave the graph only where its range begins at zero, as a clamp.
                "QDQKeepRemovableActivations": settings.has_symmetric_activations
                or has_loose_activations(model, known or {}),
            },
        )
    made = onnx.load_model(result)
    keep_biases_float(made, model, {name for layer in plan.int8 for name in layer.nodes})
    return made, found


def _activation_type(settings: Quantize) -> QuantType:
    signed, unsigned = _ACTIVATION_TYPES[settings.activation_bits]
    return unsigned if settings.is_unsigned else signed


def _overrides(
    model: onnx.ModelProto,
    plan: StaticPlan,
    settings: Quantize,
    chosen: Mapping[str, NDArray[Any]],
) -> dict[str, list[dict[str, Any]]]:
    """Scales that are not left to ONNX Runtime: of 4 bits, and where a channel is all zeros.

    chosen: others, by the weight's name. It would give such a channel the scale 1, and its bias
    steps of the input's scale (1.31.1).
    """
    constants, found = initializers(model), {}
    for layer in plan.int4:
        scales = int4_scales(array_of(constants[layer.weight]), layer.axis)
        found[layer.weight] = _fixed(scales, QuantType.QInt4, layer.axis)
    for layer in () if settings.is_per_tensor else plan.int8:
        weight = array_of(constants[layer.weight])
        if layer.weight in chosen:
            found[layer.weight] = _fixed(chosen[layer.weight], QuantType.QInt8, layer.axis)
        elif has_zero_channel(weight, layer.axis):
            scales = int8_scales(weight, layer.axis, is_range_reduced=settings.is_range_reduced)
            found[layer.weight] = _fixed(scales, QuantType.QInt8, layer.axis)
    return found


def _fixed(scales: NDArray[Any], kind: QuantType, axis: int) -> list[dict[str, Any]]:
    zero = np.array(0, np.int8)
    return [
        {"axis": axis, "quant_type": kind, "scale": scale, "zero_point": zero} for scale in scales
    ]
