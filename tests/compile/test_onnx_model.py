import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekit.compile import onnx_model
from edgekit.core.errors import CompileError, StepError


def model_with(tensors):
    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "used"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2])],
        [numpy_helper.from_array(np.float32(value), name) for name, value in tensors.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def test_tidying_takes_out_metadata_dead_constants_and_unused_domains():
    model = model_with({"used": [1, 2], "dead": [3, 4]})
    model.opset_import.append(helper.make_opsetid("com.example", 1))
    model.producer_name = "somebody"
    node = model.graph.node[0]
    node.doc_string = "/home/somebody/secret.py"
    entry = node.metadata_props.add()
    entry.key, entry.value = "trace", "/home/somebody/secret.py"
    onnx_model.tidy(model)
    content = model.SerializeToString()
    assert b"somebody" not in content
    assert b"dead" not in content
    assert [item.domain for item in model.opset_import] == [""]
    onnx.checker.check_model(model, full_check=True)


def test_constants_that_only_a_nested_graph_reads_stay():
    model = model_with({"used": [1, 2], "inner": [3, 4]})
    out = helper.make_tensor_value_info("z", TensorProto.FLOAT, [2])
    body = helper.make_graph([helper.make_node("Neg", ["inner"], ["z"])], "b", [], [out])
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "is"))
    model.graph.node.append(
        helper.make_node("If", ["is"], ["w"], then_branch=body, else_branch=body)
    )
    onnx_model.tidy(model)
    assert "inner" in {item.name for item in model.graph.initializer}
    assert "inner" in onnx_model.hidden_reads(model)


def test_nodes_without_a_name_or_with_the_same_name_get_their_own():
    model = model_with({"used": [1, 2]})
    for name in ("n", "n", ""):
        model.graph.node.append(helper.make_node("Neg", ["x"], [f"o{name}"], name=name))
    onnx_model.name_nodes(model)
    names = [node.name for node in model.graph.node]
    assert all(names)
    assert len(set(names)) == 4


def test_a_model_past_the_limit_of_one_file_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_model, "MAX_MODEL_BYTES", 10)
    with pytest.raises(CompileError, match="one file holds at most 10"):
        onnx_model.save(model_with({"used": [1, 2]}), {}, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_map_holds_only_what_the_model_holds(tmp_path):
    onnx_model.save(model_with({"used": [1, 2]}), {"used": "a", "gone": "b"}, tmp_path)
    assert json.loads((tmp_path / "tensor_map.json").read_bytes()) == {"used": "a"}


@pytest.mark.parametrize("error", [ValueError, RuntimeError, KeyError])
def test_a_tools_own_error_becomes_one_of_ours(error):
    with (
        pytest.raises(StepError, match=r"the tool failed: .*odd tensor"),
        onnx_model.explained("the tool"),
    ):
        raise error("odd tensor\nand a long trace")


def test_an_error_without_words_is_named_by_its_type():
    assert onnx_model.first_line(ValueError()) == "ValueError"
