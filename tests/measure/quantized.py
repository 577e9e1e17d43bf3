"""A small float ONNX net, and the same in integers as ONNX Runtime's own quantizer makes it."""

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

SHAPE = (1, 2, 6, 6)


def net():
    """Two branches of convolutions that are added, a mean and a linear layer."""
    draw = np.random.default_rng(0)
    constants = {
        "first.weight": draw.standard_normal((8, 2, 3, 3)) / 4,
        "left.weight": draw.standard_normal((8, 8, 3, 3)) / 8,
        "right.weight": draw.standard_normal((8, 8, 3, 3)) / 8,
        "head.weight": draw.standard_normal((8, 5)),
    }
    pads = {"pads": [1, 1, 1, 1]}
    nodes = [
        helper.make_node("Conv", ["image", "first.weight"], ["conv"], **pads),
        helper.make_node("Relu", ["conv"], ["hidden"]),
        helper.make_node("Conv", ["hidden", "right.weight"], ["right"], **pads),
        helper.make_node("Conv", ["hidden", "left.weight"], ["left"], **pads),
        helper.make_node("Add", ["left", "right"], ["both"]),
        helper.make_node("GlobalAveragePool", ["both"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("MatMul", ["flat", "head.weight"], ["scores"]),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, SHAPE)],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, (1, 5))],
        [numpy_helper.from_array(x.astype(np.float32), name) for name, x in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def images(count, seed=1):
    """Inputs for it."""
    return np.random.default_rng(seed).standard_normal((count, *SHAPE)).astype(np.float32)


class _Reader(CalibrationDataReader):
    def __init__(self):
        self._rows = iter(images(16))

    def get_next(self):
        row = next(self._rows, None)
        return None if row is None else {"image": row}


@cache
def quantized_bytes():
    """The net with static INT8 in QDQ form."""
    with TemporaryDirectory() as folder:
        source, result = Path(folder, "in.onnx"), Path(folder, "out.onnx")
        onnx.save(net(), source)
        quantize_static(
            source,
            result,
            _Reader(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
        return result.read_bytes()


def spoil_scale(content, name, factor):
    """The model with one constant of one number multiplied."""
    model = onnx.load_from_string(content)
    (tensor,) = (item for item in model.graph.initializer if item.name == name)
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * factor, name))
    return model.SerializeToString()


def spoil_weights(content, name):
    """The model with the integers of one weight in another order."""
    model = onnx.load_from_string(content)
    (tensor,) = (item for item in model.graph.initializer if item.name == name)
    values = numpy_helper.to_array(tensor)
    other = np.random.default_rng(2).permutation(values.ravel()).reshape(values.shape)
    tensor.CopyFrom(numpy_helper.from_array(other.astype(values.dtype), name))
    return model.SerializeToString()
