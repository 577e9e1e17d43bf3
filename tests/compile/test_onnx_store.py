import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekit.compile.onnx_layers import find_layers
from edgekit.compile.onnx_store import store_as_float16, store_as_integers
from tests.compile.onnx_tools import constants, operators, session

TABLE = np.random.default_rng(0).standard_normal((50, 8)).astype(np.float32)
TABLE[3] *= 100  # one row far larger than the rest


def embedding(extra=()):
    nodes = [helper.make_node("Gather", ["table", "ids"], ["y"], name="rows"), *extra]
    outputs = ["y", *(node.output[0] for node in extra)]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, [1, 4])],
        [
            helper.make_tensor_value_info(
                name, TensorProto.FLOAT, ["a", "b", "c"][: 3 if name == "y" else 2]
            )
            for name in outputs
        ],
        [numpy_helper.from_array(TABLE, "table")],
    )
    imports = [helper.make_opsetid("", 21)]
    return helper.make_model(graph, opset_imports=imports, ir_version=10)


def store(model, precision):
    layers = find_layers(model, {})
    store_as_integers(model, layers, {layer.weight: precision for layer in layers})
    onnx.checker.check_model(model, full_check=True)
    return session(model).run(None, {"ids": np.int64([[3, 0, 7, 3]])})


def test_rows_of_an_embedding_have_a_scale_each():
    model = embedding()
    found = store(model, "int8")[0]
    wanted = TABLE[[3, 0, 7, 3]][None]
    # Half a step of the row's own grid.
    steps = np.abs(wanted).max(-1, keepdims=True) / 127
    assert (np.abs(found - wanted) <= 0.501 * steps).all()
    assert constants(model)["table_quantized"].data_type == TensorProto.INT8


def test_only_the_rows_that_are_read_are_widened(tmp_path):
    model = embedding()
    store(model, "int8")
    session(model, optimized=tmp_path / "run.onnx")
    kept = onnx.load(tmp_path / "run.onnx").graph.initializer
    assert TensorProto.INT8 in {item.data_type for item in kept}


def test_a_table_with_another_reader_is_widened_as_a_whole(tmp_path):
    model = embedding([helper.make_node("Transpose", ["table"], ["turned"], perm=[1, 0])])
    found, turned = store(model, "int8")
    np.testing.assert_array_equal(turned.T[[3, 0, 7, 3]], found[0])
    assert operators(model).count("Gather") == 1


def test_four_bit_rows_are_widened_as_a_whole():
    model = embedding()
    found = store(model, "int4")[0]
    wanted = TABLE[[3, 0, 7, 3]][None]
    steps = np.abs(wanted).max(-1, keepdims=True) / 7
    # Half a step, or a clipped tail of about one.
    assert (np.abs(found - wanted) <= 2.5 * steps).all()


def halved(value):
    model = embedding()
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(value, "table"))
    return model, store_as_float16(model, ["table"])


def test_values_past_float16_stay_float32_and_are_named():
    far = TABLE.copy()
    far[0, 0] = 70_000
    model, refused = halved(far)
    assert refused == ["table"]
    assert constants(model)["table"].data_type == TensorProto.FLOAT


@pytest.mark.parametrize(("rows", "stored"), [(2, "table"), (50, "table_half")])
def test_constants_too_small_to_gain_stay(rows, stored):
    model, refused = halved(TABLE[:rows])
    assert refused == []
    assert list(constants(model)) == [stored]
