import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekit.compile import onnx as stages
from edgekit.core.contract import Contract, InputContract, OutputContract, Tensor
from edgekit.core.errors import CompileError
from edgekit.core.progress import Reporter
from tests.compile.onnx_tools import export_request, operators, session

CONTRACT = Contract(
    inputs=(InputContract(name="x", dtype="float32", shape=(1, 4), source=Tensor(shape=(4,))),),
    outputs=(OutputContract(name="y", dtype="float32", shape=(1, 3)),),
)


def dense(opset=21, rows=4):
    draw = np.random.default_rng(0)
    weight = draw.standard_normal((rows, 3)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("Gemm", ["in", "fc.weight", "fc.bias"], ["out"], name="fc")],
        "user",
        [helper.make_tensor_value_info("in", TensorProto.FLOAT, [1, rows])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, [1, 3])],
        [
            numpy_helper.from_array(weight, "fc.weight"),
            numpy_helper.from_array(np.float32([1, 2, 3]), "fc.bias"),
        ],
    )
    imports = [helper.make_opsetid("", opset)]
    return helper.make_model(graph, opset_imports=imports, ir_version=8)


def export(model, tmp_path, contract=CONTRACT, **saving):
    (tmp_path / "model").mkdir(exist_ok=True)
    if isinstance(model, bytes):
        (tmp_path / "model" / "model.onnx").write_bytes(model)
    else:
        onnx.save_model(model, tmp_path / "model" / "model.onnx", **saving)
    (tmp_path / "out").mkdir(exist_ok=True)
    request = export_request(tmp_path / "model", contract)
    return stages.export(request, tmp_path / "out", Reporter(stage="test"))


def x_value():
    return np.random.default_rng(1).standard_normal((1, 4)).astype(np.float32)


def run_both(original, tmp_path):
    x = x_value()
    wanted = session(original).run(None, {"in": x})[0]
    found = session(tmp_path / "out" / "model.onnx").run(None, {"x": x})[0]
    return wanted, found


@pytest.mark.parametrize("opset", [13, 21])
def test_a_users_file_keeps_its_numbers_and_takes_the_contracts_names(tmp_path, opset):
    model = dense(opset)
    answer = export(model, tmp_path)
    wanted, found = run_both(model, tmp_path)
    np.testing.assert_array_equal(wanted, found)
    made = onnx.load(tmp_path / "out" / "model.onnx")
    assert made.opset_import[0].version == 21
    assert answer["artifact"]["outputs"] == [{"name": "y", "position": 0}]


def test_external_data_beside_the_file_is_taken_in(tmp_path):
    model = dense()
    export(
        onnx.ModelProto.FromString(model.SerializeToString()),
        tmp_path,
        save_as_external_data=True,
        location="weights.bin",
        size_threshold=0,
    )
    (tmp_path / "model" / "weights.bin").unlink()
    wanted, found = run_both(model, tmp_path)
    np.testing.assert_array_equal(wanted, found)


@pytest.mark.parametrize("location", ["../secret.bin", "missing.bin"])
def test_external_data_elsewhere_or_missing_is_refused(tmp_path, location):
    (tmp_path / "secret.bin").write_bytes(bytes(48))
    model = dense()
    weight = model.graph.initializer[0]
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "0"), ("length", "48")):
        entry = weight.external_data.add()
        entry.key, entry.value = key, value
    with pytest.raises(CompileError, match="beside the file"):
        export(model.SerializeToString(), tmp_path)


def test_a_file_that_is_no_model_is_refused(tmp_path):
    with pytest.raises(CompileError, match=r"model\.onnx"):
        export(b"\xff\x00 no protobuf", tmp_path)


def test_a_graph_that_is_not_valid_is_refused(tmp_path):
    model = dense()
    model.graph.node[0].input[0] = "nobody"
    with pytest.raises(CompileError, match="not a valid ONNX model"):
        export(model.SerializeToString(), tmp_path)


def test_a_quantized_file_is_refused(tmp_path):
    model = dense()
    zero = numpy_helper.from_array(np.float32(0.1), "step")
    model.graph.initializer.append(zero)
    model.graph.node.insert(0, helper.make_node("QuantizeLinear", ["in", "step"], ["q"]))
    model.graph.node.insert(1, helper.make_node("DequantizeLinear", ["q", "step"], ["d"]))
    model.graph.node[2].input[0] = "d"
    with pytest.raises(CompileError, match="QuantizeLinear, so it is quantized already"):
        export(model, tmp_path)


def test_an_operator_that_the_engine_does_not_know_is_refused(tmp_path):
    model = dense(13)
    model.graph.node.append(helper.make_node("Odd", ["out"], ["odd"], domain="my.own"))
    model.opset_import.append(helper.make_opsetid("my.own", 1))
    with pytest.raises(CompileError, match=r"refuses the model.*Odd"):
        export(model, tmp_path)


def test_constants_that_are_inputs_too_stop_being_inputs(tmp_path):
    model = dense()
    model.graph.input.append(helper.make_tensor_value_info("fc.bias", TensorProto.FLOAT, [3]))
    export(model, tmp_path)
    made = onnx.load(tmp_path / "out" / "model.onnx")
    assert [item.name for item in made.graph.input] == ["x"]


@pytest.mark.parametrize("names", [("a", "b"), ()])
def test_another_number_of_outputs_than_the_contracts_is_refused(tmp_path, names):
    outputs = tuple(OutputContract(name=name, dtype="float32", shape=(1, 3)) for name in names)
    contract = Contract(inputs=CONTRACT.inputs, outputs=outputs)
    with pytest.raises(CompileError, match="1 outputs"):
        export(dense(), tmp_path, contract)


def conv_with_batch_norm():
    draw = np.random.default_rng(0)
    tensors = {"conv.weight": draw.standard_normal((3, 4, 1, 1)).astype(np.float32)}
    for name in ("scale", "shift", "mean", "variance"):
        tensors[f"norm.{name}"] = (draw.random(3) + 0.5).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Unsqueeze", ["in", "axes"], ["image"], name="up"),
            helper.make_node("Conv", ["image", "conv.weight"], ["c"], name="conv"),
            helper.make_node(
                "BatchNormalization", ["c", *list(tensors)[1:]], ["normal"], name="norm"
            ),
            helper.make_node("Flatten", ["normal"], ["out"], name="down"),
        ],
        "user",
        [helper.make_tensor_value_info("in", TensorProto.FLOAT, [1, 4])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, [1, 3])],
        [
            numpy_helper.from_array(np.int64([2, 3]), "axes"),
            *(numpy_helper.from_array(value, name) for name, value in tensors.items()),
        ],
    )
    imports = [helper.make_opsetid("", 17)]
    return helper.make_model(graph, opset_imports=imports, ir_version=8)


def test_a_batch_norm_is_folded_and_the_weight_keeps_its_name(tmp_path):
    model = conv_with_batch_norm()
    export(model, tmp_path)
    made = onnx.load(tmp_path / "out" / "model.onnx")
    assert "BatchNormalization" not in operators(made)
    weight = next(node.input[1] for node in made.graph.node if node.op_type == "Conv")
    paths = json.loads((tmp_path / "out" / "tensor_map.json").read_bytes())
    assert paths[weight] == "conv.weight"
    wanted, found = run_both(model, tmp_path)
    np.testing.assert_allclose(wanted, found, atol=1e-5)  # other order of float32 sums
