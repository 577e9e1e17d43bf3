"""Stripping wins bytes and changes no number, in the engines themselves."""

import subprocess
import sys
import warnings

import flatbuffers
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from onnx import helper, numpy_helper

from edgekit.compile.strip import require_same, strip, strip_bytes
from edgekit.compile.strip_onnx import strip_onnx
from edgekit.core.artifact import Artifact, Binding
from edgekit.core.codec import to_plain
from edgekit.core.errors import CompileError, InputError
from edgekit.core.progress import Reporter
from edgekit.core.stage import StageRequest
from edgekit.graph import read_graph
from tests.graph import artifacts

TFLITE = [
    ("conv", "float"),
    ("conv", "static8"),
    ("conv", "static4"),
    ("conv", "weight8"),
    ("conv", "fp16"),
    ("text", "dynamic8"),
    ("text", "dynamic4"),
    ("two", "float"),
]
ONNX = [
    ("conv", "float"),
    ("conv", "static8"),
    ("conv", "operators8"),
    ("conv", "dynamic8"),
    ("conv", "dq4"),
    ("conv", "fp16"),
    ("text", "dynamic8"),
    ("text", "nbits4"),
    ("two", "float"),
]


def load(form, name, recipe):
    if form == "tflite":
        if recipe == "float":
            return artifacts.float_tflite(name)
        return artifacts.quantized_tflite(name, recipe)
    return (
        artifacts.float_onnx(name) if recipe == "float" else artifacts.quantized_onnx(name, recipe)
    )


def random_input(shape, dtype, rng):
    if np.issubdtype(dtype, np.floating):
        return rng.normal(size=shape).astype(dtype)
    return rng.integers(0, 99, shape).astype(dtype)


def run_tflite(data, resolver):
    interpreter = Interpreter(
        model_content=data, num_threads=1, experimental_op_resolver_type=resolver
    )
    interpreter.allocate_tensors()
    rng, results = np.random.default_rng(1), []
    for _ in range(3):
        for item in interpreter.get_input_details():
            interpreter.set_tensor(item["index"], random_input(item["shape"], item["dtype"], rng))
        interpreter.invoke()
        results += [
            interpreter.get_tensor(item["index"]).copy()
            for item in interpreter.get_output_details()
        ]
    return results


def run_onnx(data):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    rng, results = np.random.default_rng(1), []
    kinds = {"tensor(float)": np.float32, "tensor(int64)": np.int64, "tensor(bool)": np.bool_}
    for _ in range(3):
        feed = {
            item.name: random_input(
                [2 if isinstance(size, str) else size for size in item.shape],
                kinds[item.type],
                rng,
            )
            for item in session.get_inputs()
        }
        results += session.run(None, feed)
    return results


def assert_identical(before, after):
    assert len(before) == len(after)
    for left, right in zip(before, after, strict=True):
        assert left.dtype == right.dtype
        np.testing.assert_array_equal(left, right)


@pytest.mark.parametrize(("name", "recipe"), TFLITE)
@pytest.mark.parametrize(
    "resolver",
    [OpResolverType.AUTO, OpResolverType.BUILTIN_REF],
    ids=["xnnpack", "reference"],
)
def test_tflite_gives_the_same_bits(name, recipe, resolver):
    data = load("tflite", name, recipe)
    stripped = strip_bytes(data, "tflite", name="m")
    assert_identical(run_tflite(data, resolver), run_tflite(stripped, resolver))


@pytest.mark.parametrize(("name", "recipe"), ONNX)
def test_onnx_gives_the_same_bits(name, recipe):
    data = load("onnx", name, recipe)
    assert_identical(run_onnx(data), run_onnx(strip_bytes(data, "onnx", name="m")))


@pytest.mark.parametrize(
    ("form", "name", "recipe"),
    [
        *(("tflite", *item) for item in TFLITE),
        *(("onnx", *item) for item in ONNX),
    ],
)
def test_stripping_is_deterministic_and_done_once(form, name, recipe):
    data = load(form, name, recipe)
    stripped = strip_bytes(data, form, name="m")
    assert len(stripped) < len(data)
    assert strip_bytes(data, form, name="m") == stripped
    assert strip_bytes(stripped, form, name="m") == stripped


def test_tflite_holds_no_names_and_only_the_metadata_that_the_runtime_reads():
    stripped = strip_bytes(artifacts.quantized_tflite("conv", "static8"), "tflite", name="m")
    for word in (b"torch", b"pointwise", b"serving_default", b"MLIR", b"keep_stablehlo"):
        assert word not in stripped
    graph = read_graph(stripped, name="m")
    assert graph.metadata == ("min_runtime_version",)
    assert graph.signatures == ()
    assert {item.name for item in graph.subgraphs[0].tensors} == {"", "i0", "o0"}


def test_tflite_runs_in_the_engine_that_goes_by_names():
    """CompiledModel, as phone apps use it: two inputs and two outputs that must not be mixed up."""
    from ai_edge_litert.compiled_model import CompiledModel

    a, b = np.linspace(-1, 1, 8, dtype=np.float32), np.linspace(0, 3, 12, dtype=np.float32)
    with torch.no_grad():
        wanted = artifacts.modules()["two"](torch.from_numpy(a[None]), torch.from_numpy(b[None]))
    model = CompiledModel.from_buffer(
        strip_bytes(artifacts.float_tflite("two"), "tflite", name="m")
    )
    inputs, outputs = model.create_input_buffers(0), model.create_output_buffers(0)
    inputs[0].write(a)
    inputs[1].write(b)
    model.run_by_index(0, inputs, outputs)
    for buffer, value in zip(outputs, wanted, strict=True):
        found = buffer.read(value.numel(), np.float32)
        # Sums of 8 and 12 products in another order.
        np.testing.assert_allclose(found, value.numpy().ravel(), rtol=1e-5, atol=1e-6)


def test_tflite_keeps_the_oldest_runtime_that_can_run_it():
    def version(data):
        model = schema.ModelT.InitFromPackedBuf(data, 0)
        (entry,) = [item for item in model.metadata if item.name == b"min_runtime_version"]
        buffer = model.buffers[entry.buffer]
        if buffer.offset > 1:
            return data[buffer.offset : buffer.offset + buffer.size]
        return bytes(buffer.data)

    data = artifacts.quantized_tflite("conv", "static4")
    assert version(strip_bytes(data, "tflite", name="m")) == version(data)


def test_tflite_constants_stay_on_16_byte_addresses():
    stripped = strip_bytes(artifacts.quantized_tflite("conv", "static8"), "tflite", name="m")
    graph = read_graph(stripped, name="m")
    constants = graph.subgraphs[0].constants
    assert len(constants) > 8
    for content in constants.values():
        # The start of the view in the file.
        place = stripped.find(bytes(content))
        offsets = []
        while place >= 0:
            offsets.append(place % 16)
            place = stripped.find(bytes(content), place + 1)
        assert 0 in offsets


def test_tflite_inputs_and_outputs_keep_their_order():
    data = artifacts.float_tflite("two")
    stripped = strip_bytes(data, "tflite", name="m")

    def interface(content):
        interpreter = Interpreter(model_content=content)
        return [
            [(item["index"], tuple(item["shape"])) for item in details]
            for details in (interpreter.get_input_details(), interpreter.get_output_details())
        ]

    assert interface(stripped) == interface(data)
    assert [shape for _, shape in interface(stripped)[0]] == [(1, 8), (1, 12)]


def test_tflite_with_several_signatures_keeps_them():
    import litert_torch

    model = artifacts.modules()["two"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        edge = (
            litert_torch.signature("first", model, (torch.ones(1, 8), torch.ones(1, 12)))
            .signature("second", model, (torch.ones(2, 8), torch.ones(2, 12)))
            .convert()
        )
        path = artifacts.folder() / "signatures.tflite"
        edge.export(str(path))
    stripped = strip_bytes(path.read_bytes(), "tflite", name="m")
    before, after = (Interpreter(model_content=item) for item in (path.read_bytes(), stripped))
    assert after.get_signature_list() == before.get_signature_list()
    inputs = {"args_0": np.ones((2, 8), np.float32), "args_1": np.ones((2, 12), np.float32)}
    wanted = before.get_signature_runner("second")(**inputs)
    found = after.get_signature_runner("second")(**inputs)
    assert set(found) == set(wanted)
    for name, value in wanted.items():
        np.testing.assert_array_equal(found[name], value)


def test_tflite_shares_equal_constants_only_with_equal_scales():
    def change(data, scale):
        model = schema.ModelT.InitFromPackedBuf(data, 0)
        for item in model.buffers:
            if item.offset > 1:
                item.data = np.frombuffer(data, np.uint8, item.size, item.offset)
                item.offset = item.size = 0
        main = model.subgraphs[0]
        tensor = next(
            item
            for item in main.tensors
            if len(item.shape) == 4
            and item.type == 9
            and item.buffer
            and len(item.name) > 0
            and model.buffers[item.buffer].data is not None
        )
        twin = schema.TensorT.InitFromObj(schema.Tensor.GetRootAs(_packed(tensor), 0))
        model.buffers.append(schema.BufferT(data=model.buffers[tensor.buffer].data.copy()))
        twin.buffer = len(model.buffers) - 1
        twin.quantization.scale = twin.quantization.scale * np.float32(scale)
        reader = next(item for item in main.operators if main.tensors.index(tensor) in item.inputs)
        main.tensors.append(twin)
        copy = schema.OperatorT(
            opcodeIndex=reader.opcodeIndex,
            inputs=[reader.inputs[0], len(main.tensors) - 1, reader.inputs[2]],
            outputs=reader.outputs,
            builtinOptionsType=reader.builtinOptionsType,
            builtinOptions=reader.builtinOptions,
        )
        main.operators.append(copy)
        builder = flatbuffers.Builder(1024)
        builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
        return bytes(builder.Output())

    data = artifacts.quantized_tflite("conv", "static8")
    original = len(
        schema.ModelT.InitFromPackedBuf(strip_bytes(data, "tflite", name="m"), 0).buffers
    )

    def buffers(scale):
        stripped = strip_bytes(change(data, scale), "tflite", name="m")
        return len(schema.ModelT.InitFromPackedBuf(stripped, 0).buffers)

    assert buffers(1.0) == original
    assert buffers(2.0) == original + 1


def _packed(tensor):
    builder = flatbuffers.Builder(64)
    builder.Finish(tensor.Pack(builder))
    return bytes(builder.Output())


def test_tflite_drops_constants_that_nothing_reads():
    model = schema.ModelT.InitFromPackedBuf(artifacts.float_tflite("conv"), 0)
    model.buffers.append(schema.BufferT(data=np.arange(4096, dtype=np.uint8) % 251))
    model.subgraphs[0].tensors.append(
        schema.TensorT(shape=[4096], type=9, buffer=len(model.buffers) - 1, name="orphan")
    )
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    stripped = strip_bytes(bytes(builder.Output()), "tflite", name="m")
    without = strip_bytes(artifacts.float_tflite("conv"), "tflite", name="m")
    assert len(stripped) < len(without) + 100


def test_onnx_holds_no_names_notes_or_defaults():
    data = artifacts.quantized_onnx("conv", "static8")
    stripped = strip_bytes(data, "onnx", name="m")
    for word in (b"pointwise", b"torch", b"onnx.quantize", b"main_graph", b"pkg."):
        assert word not in stripped
    model = onnx.load_from_string(stripped)
    onnx.checker.check_model(model, full_check=True)
    names = [item.name for item in model.graph.initializer]
    assert len(names) == len(set(names))
    assert max(map(len, names)) <= 2
    assert all(item.isidentifier() for item in names)
    assert not any(node.name for node in model.graph.node)
    assert [(item.domain, item.version) for item in model.opset_import] == [
        (item.domain, item.version)
        for item in onnx.load_from_string(data).opset_import
        if item.domain == ""
    ]


def test_onnx_inputs_and_outputs_keep_their_order():
    data = artifacts.float_onnx("two")
    model = onnx.load_from_string(strip_bytes(data, "onnx", name="m"))

    def widths(values):
        return [item.type.tensor_type.shape.dim[1].dim_value for item in values]

    assert widths(model.graph.input) == [8, 12]
    assert widths(model.graph.output) == [16, 4]


def test_onnx_initializers_that_are_equal_are_stored_once_and_dead_ones_leave():
    one = np.arange(300, dtype=np.float32)
    tensors = [
        numpy_helper.from_array(one, "first"),
        numpy_helper.from_array(one, "second"),
        numpy_helper.from_array(one + 1, "third"),
        numpy_helper.from_array(one + 2, "dead"),
    ]
    nodes = [
        helper.make_node("Add", ["x", "first"], ["a"]),
        helper.make_node("Mul", ["a", "second"], ["b"]),
        helper.make_node("Sub", ["b", "third"], ["y"]),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes, "g", [value("x", 1, [300])], [value("y", 1, [300])], initializer=tensors
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    data = model.SerializeToString()
    stripped = strip_bytes(data, "onnx", name="m")
    assert len(onnx.load_from_string(stripped).graph.initializer) == 2
    assert_identical(run_onnx(data), run_onnx(stripped))


def conditional():
    """Both branches use a name of the outer graph, and the same name for different things."""

    def branch(operator, constant):
        nodes = [
            helper.make_node(operator, ["shared_outside", "inner"], ["inside"]),
            helper.make_node("Add", ["inside", "computed"], ["result"]),
        ]
        out = helper.make_tensor_value_info("result", 1, [300])
        inner = numpy_helper.from_array(np.full(300, constant, np.float32), "inner")
        return helper.make_graph(nodes, operator, [], [out], initializer=[inner])

    nodes = [
        helper.make_node("Relu", ["x"], ["computed"]),
        helper.make_node(
            "If",
            ["flag"],
            ["y"],
            then_branch=branch("Mul", 2),
            else_branch=branch("Add", 3),
        ),
    ]
    shared = numpy_helper.from_array(np.arange(300, dtype=np.float32), "shared_outside")
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "g",
        [value("flag", 9, []), value("x", 1, [300])],
        [value("y", 1, [300])],
        initializer=[shared],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


@pytest.mark.parametrize("flag", [True, False])
def test_onnx_names_inside_branches_keep_their_meaning(flag):
    data = conditional().SerializeToString()
    stripped = strip_bytes(data, "onnx", name="m")
    x = np.linspace(-1, 1, 300, dtype=np.float32)
    arange = np.arange(300, dtype=np.float32)
    wanted = np.maximum(x, 0) + (arange * 2 if flag else arange + 3)
    session = onnxruntime.InferenceSession(stripped)
    names = [item.name for item in session.get_inputs()]
    (found,) = session.run(None, dict(zip(names, (np.array(flag), x), strict=True)))
    np.testing.assert_array_equal(found, wanted)


def test_onnx_functions_are_inlined():
    node = helper.make_node("Relu", ["x"], ["y"])
    opset = helper.make_opsetid("", 20)
    function = helper.make_function("mine", "F", ["x"], ["y"], [node], [opset])
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("F", ["x"], ["y"], domain="mine")],
        "g",
        [value("x", 1, [3])],
        [value("y", 1, [3])],
    )
    model = helper.make_model(
        graph,
        functions=[function],
        opset_imports=[opset, helper.make_opsetid("mine", 1)],
        ir_version=10,
    )
    stripped = strip_onnx(model.SerializeToString(), "m")
    assert_identical(run_onnx(model.SerializeToString()), run_onnx(stripped))
    assert not onnx.load_from_string(stripped).functions


def test_onnx_that_reads_what_nothing_makes_is_refused():
    model = conditional()
    model.graph.node[0].input[0] = "nowhere"
    with pytest.raises(CompileError, match="'nowhere', which nothing makes"):
        strip_onnx(model.SerializeToString(), "m")


def request(tmp_path, form, entry, content):
    source = tmp_path / "in"
    source.mkdir()
    (source / entry).write_bytes(content)
    artifact = Artifact(
        format=form,
        runtime=form,
        entry=entry,
        precision="int8",
        inputs=(Binding(name="image", position=0),),
        outputs=(Binding(name="scores", position=0),),
    )
    return artifact, StageRequest(
        name="strip",
        handler="edgekit.compile.strip:strip",
        settings={"artifact": to_plain(artifact), "contract": {}},
        inputs={"artifact": str(source)},
    )


def test_the_stage_writes_the_file_that_ships_and_says_what_it_won(tmp_path):
    data = artifacts.quantized_tflite("conv", "static8")
    artifact, asked = request(tmp_path, "tflite", "model.tflite", data)
    out, events = tmp_path / "out", []
    out.mkdir()
    answer = strip(asked, out, Reporter(stage="strip", listener=events.append))
    assert answer == {"artifact": to_plain(artifact)}
    assert [item.name for item in out.iterdir()] == ["model.tflite"]
    written = (out / "model.tflite").read_bytes()
    assert written == strip_bytes(data, "tflite", name="m")
    assert [item.kind for item in events] == ["note"]
    assert "names and metadata removed" in events[0].message


def test_an_ort_file_passes_unchanged_with_a_note(tmp_path):
    content = b"\0\0\0\0ORTM" + bytes(100)
    _, asked = request(tmp_path, "ort", "model.ort", content)
    out, events = tmp_path / "out", []
    out.mkdir()
    strip(asked, out, Reporter(stage="strip", listener=events.append))
    assert (out / "model.ort").read_bytes() == content
    assert "ships as it is" in events[0].message


@pytest.mark.parametrize(("form", "absent"), [("tflite", "onnx"), ("onnx", "ai_edge_litert")])
def test_stripping_needs_the_packages_of_its_own_format_only(tmp_path, form, absent):
    """A target's toolchain holds no other target's."""
    path = tmp_path / f"model.{form}"
    path.write_bytes(load(form, "conv", "float"))
    code = (
        f"import sys; sys.modules[{absent!r}] = None\n"
        "from pathlib import Path\n"
        "from edgekit.compile.strip import strip_bytes\n"
        f"path = Path({str(path)!r})\n"
        f"path.write_bytes(strip_bytes(path.read_bytes(), {form!r}, name='m'))\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    assert path.read_bytes() == strip_bytes(load(form, "conv", "float"), form, name="m")


def test_an_unknown_format_is_refused():
    with pytest.raises(
        CompileError, match="cannot strip format 'gguf'; allowed: tflite, onnx, ort"
    ):
        strip_bytes(b"", "gguf", name="m")


def test_bytes_that_are_no_model_are_refused():
    with pytest.raises(InputError):
        strip_bytes(artifacts.float_tflite("conv")[:-100], "tflite", name="m")


def test_a_stripper_that_changed_a_number_would_be_found():
    before = read_graph(artifacts.float_onnx("conv"), name="m")
    model = onnx.load_from_string(artifacts.float_onnx("conv"))
    values = numpy_helper.to_array(model.graph.initializer[0]).copy()
    values.reshape(-1)[0] += 1
    model.graph.initializer[0].CopyFrom(
        numpy_helper.from_array(values, model.graph.initializer[0].name)
    )
    with pytest.raises(CompileError, match="stripping changed the model"):
        require_same(before, read_graph(model.SerializeToString(), name="m"))


def test_a_stripper_that_lost_an_operator_would_be_found():
    before = read_graph(artifacts.float_onnx("conv"), name="m")
    model = onnx.load_from_string(artifacts.float_onnx("conv"))
    del model.graph.node[-1]
    with pytest.raises(CompileError, match="stripping lost a part"):
        require_same(before, read_graph(model.SerializeToString(), name="m"))
