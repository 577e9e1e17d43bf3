"""The .onnx reader against the onnx library."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekit.core.errors import InputError
from edgekit.graph import read_graph
from tests.graph import artifacts

CASES = [
    ("conv", "float"),
    ("conv", "static8"),
    ("conv", "operators8"),
    ("conv", "fp16"),
    ("conv", "dq4"),
    ("text", "nbits4"),
    ("text", "dynamic8"),
]


def load(name, recipe):
    if recipe == "float":
        return artifacts.float_onnx(name)
    return artifacts.quantized_onnx(name, recipe)


@pytest.mark.parametrize(("name", "recipe"), CASES)
def test_initializers_are_those_that_onnx_reads(name, recipe):
    data = load(name, recipe)
    model = onnx.load_from_string(data)
    graph = read_graph(data, name="model.onnx")
    by_name = {item.name: item for item in graph.subgraphs[0].tensors}
    assert len(graph.subgraphs[0].constants) == len(model.graph.initializer)
    for wanted in model.graph.initializer:
        found = by_name[wanted.name]
        assert found.is_constant
        assert found.shape == tuple(wanted.dims)
        values = numpy_helper.to_array(wanted)
        np.testing.assert_array_equal(
            graph.constant_array(found.index),
            values.astype(values.dtype.name.replace("4", "8"))
            if found.dtype.endswith("int4")
            else values,
        )


@pytest.mark.parametrize(("name", "recipe"), CASES)
def test_nodes_and_interface_are_those_that_onnx_reads(name, recipe):
    data = load(name, recipe)
    model = onnx.load_from_string(data)
    graph = read_graph(data, name="m")
    main = graph.subgraphs[0]
    names = [item.name for item in main.tensors]

    def named(indices):
        return ["" if index < 0 else names[index] for index in indices]

    for found, wanted in zip(main.operators, model.graph.node, strict=True):
        assert (found.name, found.domain) == (wanted.op_type, wanted.domain)
        assert named(found.inputs) == list(wanted.input)
        assert named(found.outputs) == list(wanted.output)
        for attribute in wanted.attribute:
            value = helper.get_attribute_value(attribute)
            plain = value.decode() if isinstance(value, bytes) else value
            if isinstance(plain, list):
                plain = tuple(plain)
            if plain != ():  # nothing to say
                assert found.attributes[attribute.name] == plain
    assert named(main.inputs) == [item.name for item in model.graph.input]
    assert named(main.outputs) == [item.name for item in model.graph.output]
    assert graph.operator_sets == {item.domain: item.version for item in model.opset_import}


def test_dynamic_axes_are_minus_one_and_fixed_ones_are_known():
    main = read_graph(artifacts.float_onnx("conv"), name="m").subgraphs[0]
    assert main.tensors[main.inputs[0]].shape == (-1, 3, 16, 16)
    assert main.tensors[main.inputs[0]].dtype == "float32"


def test_quantized_constants_carry_the_scales_of_their_dequantize_nodes():
    data = artifacts.quantized_onnx("conv", "static8")
    model = onnx.load_from_string(data)
    arrays = {item.name: numpy_helper.to_array(item) for item in model.graph.initializer}
    by_name = {item.name: item for item in read_graph(data, name="m").subgraphs[0].tensors}
    nodes = [item for item in model.graph.node if item.op_type == "DequantizeLinear"]
    assert len(nodes) > 8
    for node in nodes:
        found = by_name[node.input[0]].quantization
        np.testing.assert_array_equal(found.scales, arrays[node.input[1]].reshape(-1))
        np.testing.assert_array_equal(found.zero_points, arrays[node.input[2]].reshape(-1))


DTYPE_NAMES = {
    TensorProto.FLOAT: "float32",
    TensorProto.DOUBLE: "float64",
    TensorProto.INT64: "int64",
    TensorProto.INT32: "int32",
    TensorProto.INT16: "int16",
    TensorProto.INT8: "int8",
    TensorProto.UINT8: "uint8",
    TensorProto.UINT16: "uint16",
    TensorProto.UINT32: "uint32",
    TensorProto.UINT64: "uint64",
    TensorProto.BOOL: "bool",
    TensorProto.FLOAT16: "float16",
    TensorProto.BFLOAT16: "bfloat16",
    TensorProto.INT4: "int4",
    TensorProto.UINT4: "uint4",
    TensorProto.FLOAT8E4M3FN: "float8_e4m3fn",
    TensorProto.FLOAT8E5M2: "float8_e5m2",
    TensorProto.FLOAT8E4M3FNUZ: "float8_e4m3fnuz",
    TensorProto.COMPLEX64: "complex64",
}


@pytest.mark.parametrize("code", DTYPE_NAMES, ids=DTYPE_NAMES.values())
@pytest.mark.parametrize("is_raw", [False, True], ids=["typed", "raw"])
def test_every_type_reads_the_same_from_either_field(code, is_raw):
    numbers = (
        [1, 0, 1, 3, 2]
        if "u" in DTYPE_NAMES[code] or code == TensorProto.BOOL
        else [1, -2, 3, -4, 5]
    )
    typed = helper.make_tensor("t", code, [5], numbers)
    values = numpy_helper.to_array(typed)
    tensor = numpy_helper.from_array(values, "t") if is_raw else typed
    graph = read_graph(model_of([tensor], ["t"]), name="m")
    info = graph.subgraphs[0].tensors[0]
    assert info.dtype == DTYPE_NAMES[code]
    raw = numpy_helper.from_array(values, "t").raw_data
    assert bytes(graph.constant_data(0)) == raw
    if code == TensorProto.FLOAT8E4M3FNUZ:
        with pytest.raises(InputError, match="no numpy dtype"):
            graph.constant_array(0)
    else:
        np.testing.assert_array_equal(
            graph.constant_array(0).astype(values.astype(np.complex64).dtype),
            values.astype(np.complex64),
        )


def model_of(tensors, inputs, **more):
    node = helper.make_node("Identity", inputs[:1], ["out"])
    out = helper.make_tensor_value_info("out", TensorProto.FLOAT, None)
    graph = helper.make_graph([node], "g", [], [out], initializer=tensors, **more)
    return helper.make_model(graph).SerializeToString()


def branch(name, constant, outer):
    value = numpy_helper.from_array(np.full(2, constant, np.float32), f"{name}_c")
    nodes = [
        helper.make_node("Add", [outer, f"{name}_c"], [f"{name}_out"]),
    ]
    out = helper.make_tensor_value_info(f"{name}_out", TensorProto.FLOAT, [2])
    return helper.make_graph(nodes, name, [], [out], initializer=[value])


def conditional():
    shared = numpy_helper.from_array(np.arange(2, dtype=np.float32), "shared")
    node = helper.make_node(
        "If",
        ["flag"],
        ["y"],
        then_branch=branch("a", 1, "shared"),
        else_branch=branch("b", 2, "shared"),
    )
    flag = helper.make_tensor_value_info("flag", TensorProto.BOOL, [])
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, [2])
    graph = helper.make_graph([node], "main", [flag], [out], initializer=[shared])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])


def test_nested_graphs_see_the_constants_around_them():
    graph = read_graph(conditional().SerializeToString(), name="m")
    attributes = graph.subgraphs[0].operators[0].attributes
    place = attributes["then_branch"]
    assert [graph.subgraphs[i].name for i in (0, place, attributes["else_branch"])] == [
        "main",
        "a",
        "b",
    ]
    inner = graph.subgraphs[place].operators[0]
    np.testing.assert_array_equal(graph.constant_array(inner.inputs[0], place), [0, 1])
    np.testing.assert_array_equal(graph.constant_array(inner.inputs[1], place), [1, 1])
    # "shared" is seen from three graphs and stored once: 3 constants of 8 bytes.
    assert graph.weight_bytes == 24


def test_constant_nodes_are_constants():
    value = numpy_helper.from_array(np.arange(3, dtype=np.int64))
    nodes = [
        helper.make_node("Constant", [], ["c"], value=value),
        helper.make_node("Identity", ["c"], ["out"]),
    ]
    out = helper.make_tensor_value_info("out", TensorProto.INT64, [3])
    model = helper.make_model(helper.make_graph(nodes, "g", [], [out]))
    graph = read_graph(model.SerializeToString(), name="m")
    index = graph.subgraphs[0].operators[0].outputs[0]
    np.testing.assert_array_equal(graph.constant_array(index), [0, 1, 2])


def test_strings_are_constants_without_an_array():
    tensor = helper.make_tensor("t", TensorProto.STRING, [2], [b"a", b"bc"])
    graph = read_graph(model_of([tensor], ["t"]), name="m")
    assert graph.subgraphs[0].tensors[0].dtype == "string"
    assert bytes(graph.constant_data(0)) == b"abc"
    with pytest.raises(InputError, match="string"):
        graph.constant_array(0)


def test_data_of_a_tensor_that_is_computed_is_an_error():
    graph = read_graph(artifacts.float_onnx("conv"), name="m")
    with pytest.raises(InputError, match="is not a constant"):
        graph.constant_data(graph.subgraphs[0].outputs[0])


def external():
    tensor = numpy_helper.from_array(np.ones(4, np.float32), "t")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")
    return model_of([tensor], ["t"])


def sparse():
    values = numpy_helper.from_array(np.ones(1, np.float32), "t")
    indices = numpy_helper.from_array(np.zeros(1, np.int64))
    item = helper.make_sparse_tensor(values, indices, [4])
    return model_of([], ["t"], sparse_initializer=[item])


def functions():
    node = helper.make_node("Relu", ["x"], ["y"])
    function = helper.make_function("mine", "F", ["x"], ["y"], [node], [])
    model = onnx.load_from_string(model_of([numpy_helper.from_array(np.ones(1))], [""]))
    model.functions.append(function)
    return model.SerializeToString()


def short_data():
    tensor = numpy_helper.from_array(np.ones(4, np.float32), "t")
    tensor.raw_data = tensor.raw_data[:-1]
    return model_of([tensor], ["t"])


def wrong_field():
    tensor = TensorProto(name="t", data_type=TensorProto.FLOAT, dims=[1], int64_data=[1])
    return model_of([tensor], ["t"])


def negative_shape():
    return model_of([TensorProto(name="t", data_type=1, dims=[-3])], ["t"])


def huge_shape():
    return model_of([TensorProto(name="t", data_type=1, dims=[2**40, 2**40])], ["t"])


def unknown_type():
    return model_of([TensorProto(name="t", data_type=99, dims=[0])], ["t"])


def undefined_type():
    return model_of([TensorProto(name="t", data_type=0, dims=[1])], ["t"])


def nameless_node():
    model = onnx.load_from_string(artifacts.float_onnx("conv"))
    model.graph.node[0].op_type = ""
    return model.SerializeToString()


def too_many_axes():
    model = onnx.load_from_string(artifacts.float_onnx("conv"))
    for _ in range(40):
        model.graph.input[0].type.tensor_type.shape.dim.add(dim_value=1)
    return model.SerializeToString()


def nested(depth):
    inner = branch("leaf", 1, "flag2")
    for level in range(depth):
        node = helper.make_node("If", ["flag"], [f"y{level}"], then_branch=inner, else_branch=inner)
        out = helper.make_tensor_value_info(f"y{level}", TensorProto.FLOAT, [2])
        inner = helper.make_graph([node], f"g{level}", [], [out])
        if depth > 12 and level > 10:
            del inner.node[0].attribute[1]  # one branch only: two would double at every level
    return helper.make_model(inner).SerializeToString()


REFUSED = [
    (external, "lie in another file"),
    (sparse, "sparse initializers"),
    (functions, "inline_local_functions"),
    (short_data, "15 bytes of data for float32"),
    (wrong_field, "float32 data in field 7"),
    (negative_shape, "a tensor shape"),
    (huge_shape, "0 bytes of data"),
    (unknown_type, "unknown data type 99"),
    (undefined_type, "a tensor of type unknown"),
    (nameless_node, "a node without an operator"),
    (too_many_axes, "a shape of 44 axes"),
]


@pytest.mark.parametrize(
    ("make", "message"), REFUSED, ids=lambda item: getattr(item, "__name__", "")
)
def test_what_cannot_be_read_is_refused_with_the_reason(make, message):
    with pytest.raises(InputError, match=message) as refused:
        read_graph(make(), name="broken.onnx")
    assert str(refused.value).startswith("broken.onnx: ")


def test_endless_nesting_is_refused():
    assert len(read_graph(nested(3), name="m").subgraphs) == 15
    with pytest.raises(InputError, match="nested deeper than 16"):
        read_graph(nested(24), name="m")
