"""Facts and contract of a graph file, against arithmetic done by hand."""

import hashlib

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import edgekit
from edgekit.core.errors import CompileError, WorkloadError
from edgekit.core.progress import Reporter
from edgekit.flow.graph_source import capture_graph, facts_of_graph
from edgekit.flow.sources import Source
from edgekit.graph import read_graph
from tests.measure.artifacts import write_int8_tflite, write_onnx

REPORTER = Reporter(stage="capture")


def source(path, form, **changes):
    given = {
        "name": "graph",
        "model": path,
        "inputs": {"x": edgekit.Tensor(shape=(3,))},
        "outputs": {"y": edgekit.Output()},
        "calibration": [],
        "evaluation": [],
    }
    workload = edgekit.Workload(**{**given, **changes})
    return Source(workload=workload, format=form, digest="", origin=path.name)


def conv_net(path, *, tail=()):
    """A convolution, a depthwise one and a linear layer on 8 x 8 pictures."""
    weights = {
        "conv": np.ones((4, 3, 3, 3), np.float32),
        "depth": np.ones((4, 1, 3, 3), np.float32),
        "head": np.ones((4, 5), np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["x", "conv"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["a", "depth"], ["b"], group=4, pads=[1, 1, 1, 1]),
        helper.make_node("GlobalAveragePool", ["b"], ["c"]),
        helper.make_node("Flatten", ["c"], ["d"]),
        helper.make_node("MatMul", ["d", "head"], ["y"]),
        *tail,
    ]
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (("a", [1, 4, 8, 8]), ("b", [1, 4, 8, 8]), ("d", [1, 4]))
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 5])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
        value_info=values,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())
    return path


def test_the_numbers_of_a_conv_net(tmp_path):
    content = conv_net(tmp_path / "m.onnx").read_bytes()
    facts = facts_of_graph(read_graph(content, name="m.onnx"), content)
    assert facts.family == "convnet"
    assert facts.parameters == 4 * 27 + 4 * 9 + 20
    assert facts.weight_bytes == 4 * facts.parameters
    assert {layer.module_path: layer.macs for layer in facts.layers} == {
        "conv": 64 * 4 * 27,
        "depth": 64 * 4 * 9,
        "head": 20,
    }
    assert [layer.kind for layer in facts.layers] == ["conv", "depthwise", "linear"]
    assert facts.macs == 64 * 4 * 27 + 64 * 4 * 9 + 20
    # Input and output of the second convolution are live at once.
    assert facts.peak_activation_bytes == 2 * 4 * 4 * 64
    assert facts.digest == hashlib.sha256(content).hexdigest()
    assert [item.operator for item in facts.operators][:2] == ["Conv", "Conv"]


def test_a_graph_of_linear_layers_is_an_mlp_and_one_without_weights_is_other(tmp_path):
    write_onnx(tmp_path)
    content = (tmp_path / "model.onnx").read_bytes()
    assert facts_of_graph(read_graph(content, name="m.onnx"), content).family == "mlp"


def test_a_captured_graph_is_the_file_itself_with_its_contract(tmp_path):
    write_onnx(tmp_path / "in")
    path = tmp_path / "in" / "model.onnx"
    found = capture_graph(source(path, "onnx"), tmp_path, REPORTER)
    assert (tmp_path / "model.onnx").read_bytes() == path.read_bytes()
    assert found.contract.inputs[0].shape == ("batch", 3)
    assert found.contract.outputs[0].shape[-1] == 2
    assert found.contract.has_dynamic_batch


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"inputs": {"x": edgekit.Tensor(shape=(3,)), "z": edgekit.Tensor(shape=(3,))}},
            "2 inputs",
        ),
        (
            {"outputs": {"y": edgekit.Output(), "z": edgekit.Output()}},
            "2 outputs, the file has 1: y",
        ),
    ],
)
def test_a_workload_with_other_tensors_than_the_file_is_refused(tmp_path, changes, message):
    write_onnx(tmp_path / "in")
    path = tmp_path / "in" / "model.onnx"
    with pytest.raises(WorkloadError, match=rf"model\.onnx: the workload names {message}"):
        capture_graph(source(path, "onnx", **changes), tmp_path, REPORTER)


def test_a_quantized_tflite_is_refused(tmp_path):
    write_int8_tflite(tmp_path / "in")
    path = tmp_path / "in" / "model.tflite"
    with pytest.raises(CompileError, match=r"tensor 'in' is int8: the file is quantized already"):
        capture_graph(source(path, "tflite"), tmp_path, REPORTER)


def test_a_quantized_onnx_is_refused(tmp_path):
    constants = [
        numpy_helper.from_array(np.ones((3, 2), np.int8), "q"),
        numpy_helper.from_array(np.float32(0.1), "s"),
    ]
    nodes = [
        helper.make_node("DequantizeLinear", ["q", "s"], ["w"]),
        helper.make_node("MatMul", ["x", "w"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 2])],
        constants,
    )
    path = tmp_path / "q.onnx"
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(CompileError, match=r"q\.onnx: .*quantized already; give the float model"):
        capture_graph(source(path, "onnx"), out, REPORTER)


def test_a_graph_that_its_engine_refuses_is_named(tmp_path):
    whole = onnx.load(conv_net(tmp_path / "m.onnx"))
    # Every reader of the format takes an operator that nobody has; no engine does.
    whole.graph.node[2].op_type = "NobodyHasThis"
    path = tmp_path / "odd.onnx"
    path.write_bytes(whole.SerializeToString())
    (tmp_path / "out").mkdir()
    with pytest.raises(CompileError, match=r"odd\.onnx: ONNX Runtime cannot load .*NobodyHasThis"):
        capture_graph(source(path, "onnx"), tmp_path / "out", REPORTER)
