"""Static integers: ranges of activations from calibration, then QDQ by ONNX Runtime's quantizer."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnxruntime.quantization import (
    QuantFormat,
    QuantType,
    quantize_static,
)
from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

from edgekit.compile.onnx_grid import int4_scales
from edgekit.compile.onnx_layers import Layer
from edgekit.compile.onnx_model import array_of, explained, initializers, open_session
from edgekit.compile.onnx_ranges import Samples, calibrate
from edgekit.core.strategy import Quantize

# Recurrent layers have no static integer kernel; embeddings are stored by ``onnx_store``.
STATIC_KINDS = ("conv", "depthwise", "matrix")
# The two registries are dicts and quantize_static's own default is a list of a set of them, in an
# order that changes from process to process.
_OPERATORS = sorted(set(QLinearOpsRegistry) | set(QDQRegistry) - {"Gather"})


@dataclass(frozen=True, slots=True, kw_only=True)
class StaticPlan:
    """What the static quantizer is to do: weights by name at 8 and at 4 bits, nodes left float."""

    int4: tuple[Layer, ...]
    excluded: tuple[str, ...]


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
    return onnx.shape_inference.infer_shapes(fused, data_prop=True)


def quantize(
    model: onnx.ModelProto,
    plan: StaticPlan,
    settings: Quantize,
    samples: Samples,
    scratch: Path,
) -> onnx.ModelProto:
    """The model with integer weights and activations in QDQ form.

    Raises: StepError when calibration gives ranges that are not finite.
    """
    source, result, ranges = scratch / "in.onnx", scratch / "out.onnx", scratch / "ranges.json"
    onnx.save_model(model, source)
    calibrate(model, _OPERATORS, samples, ranges)
    with explained("ONNX Runtime's static quantizer"):
        quantize_static(
            str(source),
            str(result),
            calibration_cache_path=ranges,
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=_OPERATORS,
            per_channel=True,
            reduce_range=settings.is_range_reduced,
            activation_type=QuantType.QUInt8 if settings.is_unsigned else QuantType.QInt8,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=sorted(plan.excluded),
            extra_options={"TensorQuantOverrides": _int4_overrides(model, plan.int4)},
        )
    return onnx.load_model(result)


def _int4_overrides(
    model: onnx.ModelProto, layers: Sequence[Layer]
) -> dict[str, list[dict[str, Any]]]:
    constants = initializers(model)
    return {
        layer.weight: [
            {
                "axis": layer.axis,
                "quant_type": QuantType.QInt4,
                "scale": scale,
                "zero_point": np.array(0, np.int8),
            }
            for scale in int4_scales(array_of(constants[layer.weight]), layer.axis)
        ]
        for layer in layers
    }
