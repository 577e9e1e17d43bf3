"""Graphs that compute in float16 where the device can."""

import onnx
from onnxruntime.quantization.onnx_model import ONNXModel
from onnxruntime.transformers.float16 import convert_float_to_float16

from edgekit.compile.onnx_layers import Layer
from edgekit.compile.onnx_model import explained


def compute_in_float16(model: onnx.ModelProto, excluded: tuple[Layer, ...]) -> onnx.ModelProto:
    """The model in float16 throughout, its inputs and outputs and these layers in float32."""
    with explained("ONNX Runtime's float16 converter"):
        result: onnx.ModelProto = convert_float_to_float16(
            model,
            keep_io_types=True,
            node_block_list=[name for layer in excluded for name in layer.nodes],
        )
    # The converter appends its casts at the end; ONNX wants every node after its inputs.
    ONNXModel(result).topological_sort()
    return result
