"""Sessions on artifacts with several inputs, named axes, batches of two, texts."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edgekit import runtime
from edgekit.core.artifact import Artifact, Binding
from edgekit.core.contract import Contract, InputContract, OutputContract, Tensor, Text
from edgekit.core.errors import SessionError
from tests.runtime.conftest import Model, seal


def onnx_model(inputs, outputs, nodes) -> bytes:
    """An ONNX model of a few nodes."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(*item) for item in inputs],
        [helper.make_tensor_value_info(*item) for item in outputs],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(made)
    return made.SerializeToString()


def open_onnx(out, content, inputs, outputs, golden, *, batch, extra=None):
    """A session on an ONNX model whose contract's inputs are bound to ``positions``."""
    artifact = Artifact(
        format="onnx",
        runtime="onnx",
        entry="model/model.onnx",
        precision="float32",
        inputs=tuple(Binding(name=item.name, position=at) for at, item in inputs),
        outputs=tuple(Binding(name=item.name, position=at) for at, item in outputs),
        batch=batch,
    )
    contract = Contract(
        inputs=tuple(item for _, item in inputs), outputs=tuple(item for _, item in outputs)
    )
    model = Model(content, "onnx", "onnx", batch)
    path = seal(out, model, *golden, artifact=artifact, contract=contract, extra=extra)
    return runtime.open(path)


def tensor(name, shape, dtype="float32"):
    inner = tuple(size if isinstance(size, int) else 4 for size in shape[1:])
    return InputContract(
        name=name, dtype=dtype, shape=shape, source=Tensor(shape=inner, dtype=dtype)
    )


def result(name, shape, dtype="float32"):
    return OutputContract(name=name, dtype=dtype, shape=shape)


@pytest.fixture
def difference(tmp_path):
    """left - right and right - left, both bound crosswise, with a named second axis."""
    shape = ["batch", "length"]
    content = onnx_model(
        [("b", TensorProto.FLOAT, shape), ("a", TensorProto.FLOAT, shape)],
        [("b-a", TensorProto.FLOAT, shape), ("a-b", TensorProto.FLOAT, shape)],
        [
            helper.make_node("Sub", ["b", "a"], ["b-a"]),
            helper.make_node("Sub", ["a", "b"], ["a-b"]),
        ],
    )
    axes = ("batch", "length")
    left, right = np.ones((2, 4), np.float32), np.full((2, 4), 3, np.float32)
    with open_onnx(
        tmp_path / "b",
        content,
        [(1, tensor("left", axes)), (0, tensor("right", axes))],
        [(1, result("minus", axes)), (0, result("plus", axes))],
        ({"left": left, "right": right}, {"minus": left - right, "plus": right - left}),
        batch=0,
    ) as session:
        yield session


def test_inputs_and_outputs_are_bound_by_name_not_by_order(difference):
    left, right = np.float32([[1, 2, 3, 4]]), np.float32([[10, 20, 30, 40]])
    found = difference.run({"right": right, "left": left})
    np.testing.assert_array_equal(found["minus"], left - right)
    np.testing.assert_array_equal(found["plus"], right - left)
    assert list(found) == ["minus", "plus"]
    assert difference.self_test().is_passed


def test_named_axes_vary_but_together(difference):
    for rows, length in ((1, 1), (3, 7)):
        ones = np.ones((rows, length), np.float32)
        assert difference.run({"left": ones, "right": ones})["plus"].shape == (rows, length)
    with pytest.raises(SessionError, match=r"'length' is (5, but 4 in 'right'|4, but 5)"):
        difference.run({"left": np.ones((1, 5), "f4"), "right": np.ones((1, 4), "f4")})
    with pytest.raises(SessionError, match="'batch axis' is"):
        difference.run({"left": np.ones((1, 4), "f4"), "right": np.ones((2, 4), "f4")})
    with pytest.raises(SessionError, match="wanted"):
        difference.run({"left": np.ones((1, 0), "f4"), "right": np.ones((1, 0), "f4")})


def test_several_inputs_need_names(difference):
    with pytest.raises(SessionError, match="2 inputs; pass a dict by: left, right"):
        difference.run(np.ones((1, 4), np.float32))
    with pytest.raises(SessionError, match="2 inputs; pass a dict by"):
        difference.predict(np.ones(4, np.float32))
    with pytest.raises(SessionError, match="'right' is missing"):
        difference.run({"left": np.ones((1, 4), np.float32)})
    with pytest.raises(SessionError, match="'left' is missing"):
        difference.predict({"right": np.ones(4, np.float32)})
    found = difference.predict({"left": np.ones(4, "f4"), "right": np.zeros(4, "f4")})
    np.testing.assert_array_equal(found.outputs["minus"], np.ones(4))
    assert found.labels == {}


def test_an_artifact_of_two_rows_takes_multiples_of_two(tmp_path):
    content = onnx_model(
        [("x", TensorProto.INT32, [2, 3])],
        [("y", TensorProto.INT32, [2, 3])],
        [helper.make_node("Add", ["x", "x"], ["y"])],
    )
    rows = np.arange(12).reshape(4, 3)
    with open_onnx(
        tmp_path / "b",
        content,
        [(0, tensor("x", (2, 3), "int64"))],
        [(0, result("y", (2, 3), "int64"))],
        ({"x": rows}, {"y": rows * 2}),
        batch=2,
    ) as session:
        found = session.run(rows)["y"]
        assert found.dtype == np.int64
        np.testing.assert_array_equal(found, rows * 2)
        np.testing.assert_array_equal(session.run(rows.astype(np.uint8))["y"], rows * 2)
        np.testing.assert_array_equal(session.predict(rows[1]).outputs["y"], rows[1] * 2)
        assert session.self_test().is_passed
        with pytest.raises(SessionError, match="3 rows; the artifact takes 2 at a time"):
            session.run(rows[:3])
        with pytest.raises(SessionError, match="do not fit into int32"):
            session.run(np.full((2, 3), 2**40))


def test_an_artifact_that_drops_rows_is_caught(tmp_path):
    content = onnx_model(
        [("x", TensorProto.FLOAT, ["batch", 3])],
        [("y", TensorProto.FLOAT, ["rows", 3])],
        [helper.make_node("Concat", ["x", "x"], ["y"], axis=0)],
    )
    rows = np.zeros((2, 3), np.float32)
    with (
        open_onnx(
            tmp_path / "b",
            content,
            [(0, tensor("x", ("batch", 3)))],
            [(0, result("y", ("batch", 3)))],
            ({"x": rows}, {"y": rows}),
            batch=0,
        ) as session,
        pytest.raises(SessionError, match=r"gave shape \(4, 3\) for 2 samples"),
    ):
        session.run(rows)


def test_one_text_feeds_all_parts_with_the_tokenizer_of_the_bundle(tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    words = {"[PAD]": 0, "[UNK]": 1, "a": 2, "bee": 3}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    content = onnx_model(
        [("i", TensorProto.INT64, ["batch", 4]), ("m", TensorProto.INT64, ["batch", 4])],
        [("y", TensorProto.INT64, ["batch", 4])],
        [helper.make_node("Add", ["i", "m"], ["y"])],
    )
    path = "assets/tokenizer.json"
    inputs = [
        (
            at,
            InputContract(
                name=part,
                dtype="int64",
                shape=("batch", 4),
                source=Text(tokenizer=path, length=4, part=part),
            ),
        )
        for at, part in enumerate(("ids", "mask"))
    ]
    zeros = np.zeros((1, 4), np.int64)
    with open_onnx(
        tmp_path / "b",
        content,
        inputs,
        [(0, result("y", ("batch", 4), "int64"))],
        ({"ids": zeros, "mask": zeros}, {"y": zeros}),
        batch=0,
        extra={path: tokenizer.to_str().encode()},
    ) as session:
        (tmp_path / "b" / path).write_text("swapped after the check")
        found = session.predict("a bee cat")
        np.testing.assert_array_equal(found.outputs["y"], [2 + 1, 3 + 1, 1 + 1, 0])
