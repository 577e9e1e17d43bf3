import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekit.compile.onnx_pads import keep_pads_in_integers, merge_slices
from tests.compile.onnx_tools import operators, session

X = np.random.default_rng(0).standard_normal((1, 2, 6, 6)).astype(np.float32)


def make(nodes, tensors, outputs=("y",)):
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, X.shape)],
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ["a", "b", "c", "d"])
            for name in outputs
        ],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in tensors.items()],
    )
    imports = [helper.make_opsetid("", 21)]
    return helper.make_model(graph, opset_imports=imports, ir_version=10)


def run(model):
    return session(model).run(None, {"x": X})


def slices(second_axis=3, outputs=("y",)):
    tensors = {
        "start": np.int64([0]),
        "end": np.int64([100]),
        "two": np.int64([2]),
        "three": np.int64([second_axis]),
        "stride": np.int64([2]),
    }
    nodes = [
        helper.make_node("Slice", ["x", "start", "end", "two", "stride"], ["half"]),
        helper.make_node("Slice", ["half", "start", "end", "three", "stride"], ["y"]),
    ]
    return make(nodes, tensors, outputs)


def test_two_slices_in_a_row_become_one_with_the_same_result():
    model = slices()
    wanted = run(model)[0]
    merge_slices(model)
    assert operators(model) == ["Slice"]
    np.testing.assert_array_equal(run(model)[0], wanted)
    np.testing.assert_array_equal(wanted, X[:, :, ::2, ::2])


@pytest.mark.parametrize(("axis", "outputs"), [(2, ("y",)), (-1, ("y",)), (3, ("y", "half"))])
def test_slices_over_one_axis_or_with_another_reader_stay(axis, outputs):
    model = slices(axis, outputs)
    merge_slices(model)
    assert operators(model) == ["Slice", "Slice"]


def test_slices_without_steps_are_merged_too():
    tensors = {"one": np.int64([1]), "five": np.int64([5]), "a": np.int64([2]), "b": np.int64([3])}
    nodes = [
        helper.make_node("Slice", ["x", "one", "five", "a"], ["half"]),
        helper.make_node("Slice", ["half", "one", "five", "b"], ["y"]),
    ]
    model = make(nodes, tensors)
    merge_slices(model)
    assert operators(model) == ["Slice"]
    np.testing.assert_array_equal(run(model)[0], X[:, :, 1:5, 1:5])


def padded(*, scale_after=0.02, mode="constant", value=0.0, extra=()):
    tensors = {
        "s": np.float32(0.02),
        "t": np.float32(scale_after),
        "z": np.uint8(128),
        "pads": np.int64([0, 1, 0, 0, 0, 1, 0, 0]),
        "value": np.float32(value),
    }
    reader = [helper.make_node("Identity", ["pad"], [name]) for name in extra]
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        helper.make_node("Pad", ["d", "pads", "value"], ["pad"], mode=mode),
        helper.make_node("QuantizeLinear", ["pad", "t", "z"], ["p"]),
        helper.make_node("DequantizeLinear", ["p", "t", "z"], ["y"]),
        *reader,
    ]
    return make(nodes, tensors, ("y", *extra))


def test_a_pad_between_equal_grids_stays_in_integers_with_the_same_result():
    model = padded()
    wanted = run(model)[0]
    keep_pads_in_integers(model)
    assert operators(model) == ["QuantizeLinear", "Pad", "DequantizeLinear"]
    onnx.checker.check_model(model, full_check=True)
    np.testing.assert_array_equal(run(model)[0], wanted)


@pytest.mark.parametrize(
    "settings",
    [{"scale_after": 0.03}, {"mode": "edge"}, {"value": 1.0}, {"extra": ("other",)}],
)
def test_other_pads_stay_as_they_are(settings):
    model = padded(**settings)
    before = operators(model)
    keep_pads_in_integers(model)
    assert operators(model) == before
