"""Small artifacts made by hand, without edgekit: an ONNX graph, and .tflite files of one layer."""

import flatbuffers
import numpy as np
import onnx
from ai_edge_litert import schema_py_generated as schema
from onnx import TensorProto, helper, numpy_helper

from edgekit.core.artifact import Artifact, Binding
from edgekit.core.codec import to_plain
from edgekit.core.contract import Contract, InputContract, OutputContract, Tensor
from edgekit.data.dataset import DatasetWriter

WEIGHT = np.array([[1.0, -2.0, 0.5], [0.25, 1.0, -1.0]], np.float32)
BIAS = np.array([0.5, -0.25], np.float32)


def expected(x):
    """What the layer of these artifacts gives, by numpy."""
    return x @ WEIGHT.T + BIAS


def contract(inputs=3, outputs=2, batch="batch"):
    return Contract(
        inputs=(
            InputContract(
                name="x", dtype="float32", shape=(batch, inputs), source=Tensor(shape=(inputs,))
            ),
        ),
        outputs=(OutputContract(name="y", dtype="float32", shape=(batch, outputs)),),
    )


def artifact(entry, runtime, batch):
    return Artifact(
        format=entry.rpartition(".")[2],
        runtime=runtime,
        entry=entry,
        precision="float32",
        inputs=(Binding(name="x", position=0),),
        outputs=(Binding(name="y", position=0),),
        batch=batch,
    )


def write_onnx(folder, *, batch=0, weight=WEIGHT, bias=BIAS, repeats=1, tail=()):
    """A fully connected layer, ``repeats`` more square ones, then the unary operators of tail."""
    nodes = [helper.make_node("Gemm", ["x", "w", "b"], ["h0"], transB=1)]
    constants = {"w": weight, "b": bias}
    for i in range(1, repeats):
        size = weight.shape[0]
        constants[f"w{i}"] = (np.eye(size) + 0.01).astype(np.float32)
        nodes.append(helper.make_node("MatMul", [f"h{i - 1}", f"w{i}"], [f"h{i}"]))
    last = f"h{repeats - 1}"
    for i, kind in enumerate(tail):
        nodes.append(helper.make_node(kind, [last], [f"t{i}"]))
        last = f"t{i}"
    nodes.append(helper.make_node("Identity", [last], ["y"]))
    rows = batch or "batch"
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [rows, weight.shape[1]])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [rows, weight.shape[0]])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    return artifact("model.onnx", "onnx", batch)


INPUT_SCALE, INPUT_ZERO = 0.05, 3
WEIGHT_SCALE = 2.0 / 127
OUTPUT_SCALE, OUTPUT_ZERO = 0.1, -5


def write_int8_tflite(folder, *, batch=1):
    """The same layer with int8 input, weights and output; scales as above."""
    tensors, buffers = [], [schema.BufferT()]

    def tensor(name, shape, kind, scale, zero_point, data=None):
        item = schema.TensorT()
        item.name, item.shape, item.type = name, list(shape), kind
        item.quantization = schema.QuantizationParametersT()
        item.quantization.scale, item.quantization.zeroPoint = [scale], [zero_point]
        if data is not None:
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(data.tobytes(), np.uint8)
            item.buffer = len(buffers)
            buffers.append(buffer)
        tensors.append(item)

    int8, int32 = schema.TensorType.INT8, schema.TensorType.INT32
    tensor("in", (batch, 3), int8, INPUT_SCALE, INPUT_ZERO)
    stored = np.rint(WEIGHT / WEIGHT_SCALE).clip(-127, 127).astype(np.int8)
    tensor("w", (2, 3), int8, WEIGHT_SCALE, 0, stored)
    bias = np.rint(BIAS / (INPUT_SCALE * WEIGHT_SCALE)).astype(np.int32)
    tensor("b", (2,), int32, INPUT_SCALE * WEIGHT_SCALE, 0, bias)
    tensor("out", (batch, 2), int8, OUTPUT_SCALE, OUTPUT_ZERO)
    operator = schema.OperatorT()
    operator.inputs, operator.outputs = [0, 1, 2], [3]
    operator.builtinOptionsType = schema.BuiltinOptions.FullyConnectedOptions
    operator.builtinOptions = schema.FullyConnectedOptionsT()
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.FULLY_CONNECTED
    code.version = 4
    graph = schema.SubGraphT()
    graph.tensors, graph.inputs, graph.outputs, graph.operators = tensors, [0], [3], [operator]
    model = schema.ModelT()
    model.version, model.subgraphs, model.buffers = 3, [graph], buffers
    model.operatorCodes = [code]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.tflite").write_bytes(bytes(builder.Output()))
    return artifact("model.tflite", "litert", batch)


def write_data(folder, x, y=None):
    with DatasetWriter(folder) as writer:
        for i, row in enumerate(x):
            target = {} if y is None else {"target": np.asarray(y[i])}
            writer.append({"x": row, **target})
    return folder


def plain(value):
    return to_plain(value)
