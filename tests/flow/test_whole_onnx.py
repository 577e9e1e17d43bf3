"""A model with its weights in a file beside it, as torch exports it by default."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.external_data_helper import convert_model_to_external_data

from edgekit.core.errors import CompileError
from edgekit.flow.whole_onnx import whole_onnx


@pytest.fixture
def parted(tmp_path):
    """A .onnx whose initializers lie in weights.bin."""
    source = tmp_path / "source"
    source.mkdir()
    weight = np.random.default_rng(0).standard_normal((6, 4)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4])],
        [numpy_helper.from_array(weight, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    convert_model_to_external_data(model, location="weights.bin", size_threshold=0)
    onnx.save(model, source / "model.onnx")
    assert (source / "weights.bin").is_file()
    return source / "model.onnx"


def run(path):
    session = onnxruntime.InferenceSession(path)
    return session.run(None, {"x": np.ones((1, 6), np.float32)})[0]


def test_the_one_file_is_the_same_model_wherever_it_lies(parted, tmp_path):
    work = tmp_path / "work"
    work.mkdir()
    whole = whole_onnx(parted, work)
    expected = run(parted)
    (parted.parent / "weights.bin").unlink()
    np.testing.assert_array_equal(run(whole), expected)


def test_a_model_in_one_file_stays_where_it_is(parted, tmp_path):
    work = tmp_path / "work"
    work.mkdir()
    whole = whole_onnx(parted, work)
    assert whole_onnx(whole, tmp_path) == whole


def test_weights_that_are_not_there_are_named(parted, tmp_path):
    (parted.parent / "weights.bin").unlink()
    with pytest.raises(CompileError, match=r"cannot be read .*weights.bin"):
        whole_onnx(parted, tmp_path)


def test_weights_outside_the_models_folder_are_refused(parted, tmp_path):
    model = onnx.load(parted, load_external_data=False)
    (tmp_path / "weights.bin").write_bytes((parted.parent / "weights.bin").read_bytes())
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = "../weights.bin"
    parted.write_bytes(model.SerializeToString())
    with pytest.raises(CompileError, match="cannot be read"):
        whole_onnx(parted, tmp_path)
