"""The .tflite reader against LiteRT's own interpreter and schema."""

import inspect

import flatbuffers
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from edgekit.core.errors import InputError
from edgekit.graph import read_graph
from edgekit.graph.tflite_names import DTYPES, OPERATORS, OPTIONS
from tests.graph import artifacts

CASES = [
    ("conv", "float"),
    ("conv", "static8"),
    ("conv", "static4"),
    ("conv", "weight8"),
    ("text", "dynamic4"),
]


def load(name, recipe):
    if recipe == "float":
        return artifacts.float_tflite(name)
    return artifacts.quantized_tflite(name, recipe)


def code_names(kind):
    return {value: name for name, value in vars(kind).items() if isinstance(value, int)}


def test_operator_names_are_those_of_the_schema():
    wanted = code_names(schema.BuiltinOperator)
    assert dict(enumerate(OPERATORS)) == wanted


def test_tensor_types_are_those_of_the_schema():
    wanted = {code: name.lower() for code, name in code_names(schema.TensorType).items()}
    assert dict(enumerate(DTYPES)) == wanted


@pytest.mark.parametrize("code", sorted(OPTIONS))
def test_option_fields_are_those_of_the_schema(code):
    kind = getattr(schema, code_names(schema.BuiltinOptions)[code])
    readers = {name: item for name, item in vars(kind).items() if inspect.isfunction(item)}
    for attribute, number, _ in OPTIONS[code]:
        place = f"Offset({4 + 2 * number})"
        (name,) = [
            name
            for name, item in readers.items()
            if place in inspect.getsource(item)
            and not name.endswith(("Length", "IsNone", "AsNumpy"))
        ]
        words = attribute.replace("dtype", "data_type").split("_")
        assert all(word in name.lower() for word in words), (attribute, name)


@pytest.mark.parametrize(("name", "recipe"), CASES)
def test_tensors_are_those_that_the_interpreter_sees(name, recipe):
    data = load(name, recipe)
    graph = read_graph(data, name="model.tflite")
    interpreter = Interpreter(
        model_content=data,
        experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    )
    main = graph.subgraphs[0]
    details = {item["index"]: item for item in interpreter.get_tensor_details()}
    assert set(details) >= set(range(len(main.tensors)))
    for tensor in main.tensors:
        seen = details[tensor.index]
        assert tensor.name == seen["name"]
        assert tensor.shape == tuple(seen["shape_signature"])
        if tensor.dtype != "int4":  # the interpreter's numpy has no 4-bit type
            assert np.dtype(tensor.dtype) == seen["dtype"]
        wanted = seen["quantization_parameters"]
        if len(wanted["scales"]):
            np.testing.assert_array_equal(tensor.quantization.scales, wanted["scales"])
            if not tensor.quantization.block_size:  # of blocks the interpreter says scales only
                points = tensor.quantization.zero_points
                np.testing.assert_array_equal(points, wanted["zero_points"])
                assert tensor.quantization.axis == wanted["quantized_dimension"]
    assert list(main.inputs) == [item["index"] for item in interpreter.get_input_details()]
    assert list(main.outputs) == [item["index"] for item in interpreter.get_output_details()]


@pytest.mark.parametrize(("name", "recipe"), CASES)
def test_operators_are_those_that_the_interpreter_runs(name, recipe):
    data = load(name, recipe)
    interpreter = Interpreter(
        model_content=data,
        experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    )
    wanted = [
        (item["op_name"], list(item["inputs"]), list(item["outputs"]))
        for item in interpreter._get_ops_details()
    ]
    found = [
        (item.name, list(item.inputs), list(item.outputs))
        for item in read_graph(data, name="m").subgraphs[0].operators
    ]
    assert found == wanted


@pytest.mark.parametrize(("name", "recipe"), [("conv", "float"), ("conv", "static8")])
def test_constants_are_those_that_the_interpreter_holds(name, recipe):
    data = load(name, recipe)
    graph = read_graph(data, name="m")
    interpreter = Interpreter(
        model_content=data,
        experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    )
    interpreter.allocate_tensors()
    constants = [item for item in graph.subgraphs[0].tensors if item.is_constant]
    assert len(constants) >= 8
    for item in constants:
        np.testing.assert_array_equal(
            graph.constant_array(item.index), interpreter.get_tensor(item.index)
        )
        assert item.stored_bytes == len(graph.constant_data(item.index))


def test_int4_weights_unpack_to_rounded_floats():
    floats = read_graph(artifacts.float_tflite("conv"), name="f")
    graph = read_graph(artifacts.quantized_tflite("conv", "static4"), name="q")
    packed = [item for item in graph.subgraphs[0].tensors if item.dtype == "int4"]
    assert len(packed) == 2
    by_name = {item.name: item.index for item in floats.subgraphs[0].tensors}
    for item in packed:
        values = graph.constant_array(item.index)
        assert values.min() >= -8
        assert values.max() <= 7
        scales = item.quantization.scales.reshape(-1, 1, 1, 1)
        wanted = floats.constant_array(by_name[item.name])
        # Round to nearest: half a step, and a little for the scale's own rounding.
        assert (np.abs(values * scales - wanted) <= 0.501 * scales).all()
        assert item.stored_bytes == values.size // 2


def test_block_scales_come_from_their_tensor():
    graph = read_graph(artifacts.quantized_tflite("text", "dynamic4"), name="q")
    blocked = [item for item in graph.subgraphs[0].tensors if item.dtype == "int4"]
    assert {item.quantization.block_size for item in blocked} == {32}
    for item in blocked:
        assert item.quantization.axis == 1
        assert len(item.quantization.scales) == item.elements // 32


def test_attributes_and_signature_are_plain_values():
    graph = read_graph(artifacts.float_tflite("conv"), name="m")
    convolutions = [item for item in graph.subgraphs[0].operators if item.name == "CONV_2D"]
    assert convolutions[0].attributes["padding"] == "SAME"
    assert convolutions[0].attributes["activation"] == "RELU"
    assert convolutions[0].attributes["stride_w"] == 1
    (signature,) = graph.signatures
    assert signature.name == "serving_default"
    assert [index for _, index in signature.inputs] == list(graph.subgraphs[0].inputs)
    assert "min_runtime_version" in graph.metadata


def test_weight_bytes_count_every_constant_once():
    model = schema.ModelT.InitFromPackedBuf(artifacts.float_tflite("conv"), 0)
    used = {item.buffer for item in model.subgraphs[0].tensors}
    wanted = sum(len(model.buffers[i].data) for i in used if model.buffers[i].data is not None)
    assert read_graph(artifacts.float_tflite("conv"), name="m").weight_bytes == wanted


def packed(change):
    """The small convolution net with one thing changed, as a file."""
    model = schema.ModelT.InitFromPackedBuf(artifacts.float_tflite("conv"), 0)
    change(model)
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


def wrong_version(model):
    model.version = 2


def wrong_buffer(model):
    model.subgraphs[0].tensors[0].buffer = 9999


def wrong_tensor(model):
    model.subgraphs[0].operators[0].inputs = [9999]


def wrong_code(model):
    model.subgraphs[0].operators[0].opcodeIndex = 77


def wrong_type(model):
    model.subgraphs[0].tensors[0].type = 99


def wrong_shape(model):
    model.subgraphs[0].tensors[0].shape = [-5]


def short_constant(model):
    constant = next(item for item in model.buffers if item.data is not None and len(item.data) > 64)
    constant.data = constant.data[:-4]


def no_subgraph(model):
    model.subgraphs = []


def unknown_operator(model):
    model.operatorCodes[0].builtinCode = 4000


def far_buffer(model):
    model.buffers[-1].offset, model.buffers[-1].size = 10**9, 10**9


def external_buffer(model):
    model.subgraphs[0].tensors[0].externalBuffer = 3


def external_buffers(model):
    model.externalBuffers = [schema.ExternalBufferT()]


def wrong_signature(model):
    model.signatureDefs[0].inputs[0].tensorIndex = 500


def wrong_signature_subgraph(model):
    model.signatureDefs[0].subgraphIndex = 5


def wrong_padding(model):
    operators = model.subgraphs[0].operators
    next(item for item in operators if item.builtinOptionsType == 1).builtinOptions.padding = 9


def wrong_axis(model):
    entry = schema.QuantizationParametersT(scale=[1.0, 2.0], quantizedDimension=40)
    model.subgraphs[0].tensors[0].quantization = entry


def wrong_blocks(model):
    entry = schema.QuantizationParametersT(
        detailsType=2, details=schema.BlockwiseQuantizationT(scales=0, blockSize=32)
    )
    model.subgraphs[0].tensors[0].quantization = entry


CHANGES = [
    (wrong_version, "schema version 2"),
    (wrong_buffer, "buffer 9999"),
    (wrong_tensor, "tensor index 9999"),
    (wrong_code, "operator code 77"),
    (wrong_type, "unknown tensor type 99"),
    (wrong_shape, "shape"),
    (short_constant, "bytes of data for float32"),
    (no_subgraph, "no subgraph"),
    (unknown_operator, "unknown operator code 4000"),
    (far_buffer, "a buffer of 1000000000 bytes"),
    (external_buffer, "another file"),
    (external_buffers, "external buffers"),
    (wrong_signature, "tensor index 500"),
    (wrong_signature_subgraph, "subgraph 5"),
    (wrong_padding, "option 9"),
    (wrong_axis, "quantized axis 40"),
    (wrong_blocks, "block scales"),
]


@pytest.mark.parametrize(
    ("change", "message"), CHANGES, ids=lambda item: getattr(item, "__name__", "")
)
def test_a_file_that_contradicts_itself_is_refused(change, message):
    with pytest.raises(InputError, match=message) as refused:
        read_graph(packed(change), name="broken.tflite")
    assert str(refused.value).startswith("broken.tflite: ")


def test_custom_operators_keep_their_name():
    def change(model):
        model.operatorCodes[0] = schema.OperatorCodeT(
            deprecatedBuiltinCode=32, builtinCode=32, customCode="MyOp", version=3
        )

    graph = read_graph(packed(change), name="m")
    custom = [item for item in graph.subgraphs[0].operators if item.domain == "custom"]
    assert custom
    assert (custom[0].name, custom[0].version) == ("MyOp", 3)


def test_variable_tensors_and_dynamic_axes_are_seen():
    def change(model):
        model.subgraphs[0].tensors[1].isVariable = True
        first = model.subgraphs[0].inputs[0]
        model.subgraphs[0].tensors[first].shapeSignature = [-1, 3, 16, 16]

    main = read_graph(packed(change), name="m").subgraphs[0]
    assert main.tensors[1].is_variable
    assert main.tensors[main.inputs[0]].shape == (-1, 3, 16, 16)
    assert main.tensors[main.inputs[0]].elements == 0


def test_a_small_file_that_describes_a_huge_tree_is_refused_in_time():
    """20,000 subgraphs of 20,000 tensors each, all of them the same few bytes."""
    builder = flatbuffers.Builder(1024)
    count = 20_000

    def repeat(offset):
        builder.StartVector(4, count, 4)
        for _ in range(count):
            builder.PrependUOffsetTRelative(offset)
        return builder.EndVector()

    builder.StartObject(1)
    buffers = repeat(builder.EndObject())
    builder.StartObject(3)
    tensors = repeat(builder.EndObject())
    builder.StartObject(1)
    builder.PrependUOffsetTRelativeSlot(0, tensors, 0)
    subgraphs = repeat(builder.EndObject())
    builder.StartObject(5)
    builder.PrependUint32Slot(0, 3, 0)
    builder.PrependUOffsetTRelativeSlot(2, subgraphs, 0)
    builder.PrependUOffsetTRelativeSlot(4, buffers, 0)
    builder.Finish(builder.EndObject(), file_identifier=b"TFL3")
    with pytest.raises(InputError, match="more parts than a file of this size can hold"):
        read_graph(bytes(builder.Output()), name="bomb.tflite")
