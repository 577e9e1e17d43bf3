"""4-bit weights as a session runs them, against LiteRT's own kernels and its schema."""

import contextlib
import struct

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from edgekit import runtime
from edgekit.core.errors import SessionError
from edgekit.runtime import litert_widen
from edgekit.runtime.litert import LiteRtEngine
from edgekit.runtime.litert_widen import widen_weights
from tests.graph import artifacts
from tests.runtime.four_bits import (
    CONVOLUTIONS,
    INT4,
    INT8,
    WIDENED,
    another_has_its_bytes,
    first_weight,
    models,
    narrowed,
    packed,
    readers,
    seal_kept_weight,
    stripped,
    unpacked,
    values_of,
)


def four_bit_weights(model):
    tensors = model.subgraphs[0].tensors
    found = {index for name, index in readers(model) if name in WIDENED}
    return {index for index in found if tensors[index].type == INT4}


def widened_by_the_schema(content):
    """The same file with those weights in 8 bits, written anew by LiteRT's own schema."""
    model = unpacked(content)
    for index in four_bit_weights(model):
        tensor = model.subgraphs[0].tensors[index]
        values = values_of(content, model, tensor).view(np.uint8)
        model.buffers.append(schema.BufferT(data=values))
        tensor.buffer, tensor.type = len(model.buffers) - 1, INT8
    return packed(model)


KINDS = ("buffers behind the model", "stripped", "static", "dynamic", "weights alone")


def interpreter(content, resolver=OpResolverType.AUTO):
    made = Interpreter(model_content=content, experimental_op_resolver_type=resolver)
    made.allocate_tensors()
    return made


def outputs(content, resolver=OpResolverType.AUTO):
    """Of four inputs that use the whole range of what the model takes."""
    made = interpreter(content, resolver)
    details, found = made.get_input_details()[0], []
    draw = np.random.default_rng(3)
    for image in artifacts.images(4):
        integers = draw.integers(-128, 128, image.shape, np.int8)
        made.set_tensor(details["index"], [integers if details["dtype"] == np.int8 else image])
        made.invoke()
        found.append(made.get_tensor(made.get_output_details()[0]["index"])[0])
    return np.stack(found)


def engine_outputs(content):
    engine = LiteRtEngine(content)
    draw, found = np.random.default_rng(3), []
    for image in artifacts.images(4):
        integers = draw.integers(-128, 128, image.shape, np.int8)
        given = integers if engine.inputs[0].dtype == np.int8 else image
        found.append(engine.run([given[None]])[0][0])
    return np.stack(found), engine.notes


@pytest.mark.parametrize("kind", KINDS)
def test_four_bit_weights_become_the_same_integers_in_eight_and_nothing_else_changes(kind):
    content = models()[kind]
    wide = widen_weights(content)
    assert wide.notes == ()
    before, after = unpacked(content), unpacked(wide.model)
    weights = four_bit_weights(before)
    changed = 0
    both = zip(before.subgraphs[0].tensors, after.subgraphs[0].tensors, strict=True)
    for index, (old, new) in enumerate(both):
        is_widened = old.type == INT4 and index in weights
        changed += is_widened
        assert new.type == (INT8 if is_widened else old.type)
        np.testing.assert_array_equal(
            values_of(wide.model, after, new), values_of(content, before, old)
        )
        old.type = new.type
        assert str(flat(old)) == str(flat(new))
    assert changed == {"static": 3, "weights alone": 4}.get(kind, 2)
    assert flat(before.subgraphs[0].operators) == flat(after.subgraphs[0].operators)


def flat(value):
    """A table of the object API as plain values."""
    if isinstance(value, list):
        return [flat(item) for item in value]
    if isinstance(value, np.ndarray):
        return value.tolist()
    return (
        {key: flat(item) for key, item in vars(value).items()}
        if hasattr(value, "__dict__")
        else value
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "resolver", [OpResolverType.BUILTIN_REF, OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES]
)
def test_litert_s_own_kernels_give_the_same_bits_for_both(kind, resolver):
    content = models()[kind]
    found = outputs(widen_weights(content).model, resolver)
    assert len(np.unique(found)) > 8
    np.testing.assert_array_equal(found, outputs(content, resolver))


@pytest.mark.parametrize("kind", KINDS[1:])
def test_a_session_gives_what_xnnpack_gives_for_the_same_integers_in_eight_bits(kind):
    content = models()[kind]
    found, notes = engine_outputs(content)
    assert notes == ()
    np.testing.assert_array_equal(found, outputs(widened_by_the_schema(content)))


def test_a_session_differs_from_the_four_bit_kernels_by_rounding_alone():
    content = models()["static"]
    found, _ = engine_outputs(content)
    wanted = outputs(content)
    # XNNPACK rounds what it scales by floats, LiteRT's kernels by fixed points: one step a layer,
    # and the three layers behind the first pass less than one of it on here.
    assert np.abs(found.astype(int) - wanted.astype(int)).max() <= 2


@pytest.mark.parametrize("kind", KINDS)
def test_xnnpack_takes_the_widened_convolutions_and_not_those_of_four_bits(kind):
    content = models()[kind]

    def parts(model):
        names = [item["op_name"] for item in interpreter(model)._get_ops_details()]
        return names.count("DELEGATE")

    eight = stripped({"dynamic": "dynamic8", "weights alone": "weight8"}.get(kind, "static8"))
    assert parts(widen_weights(content).model) == parts(eight)
    # Of three layers in a row two others hold as many parts as two and one.
    assert kind == "dynamic" or parts(content) != parts(eight)


def test_wide_weights_lie_where_kernels_expect_them():
    content = models()["static"]
    wide = widen_weights(content).model
    before = unpacked(content)
    for name, index in readers(before):
        if name in CONVOLUTIONS:
            tensor = before.subgraphs[0].tensors[index]
            place = wide.find(values_of(content, before, tensor).tobytes())
            assert place > len(content)
            assert place % 16 == 0


@pytest.mark.parametrize(
    "content",
    [
        lambda: artifacts.quantized_tflite("text", "dynamic4"),
        lambda: narrowed(stripped("static8"), ("FULLY_CONNECTED",)),
        lambda: stripped("static8"),
    ],
    ids=["blocks", "fully connected, a channel", "no 4 bits"],
)
def test_what_has_no_four_bit_convolutions_is_given_on_as_it_is(content):
    model = content()
    found = widen_weights(model)
    assert found.model is model
    assert found.notes == ()


def gives_it_out(model):
    index = first_weight(model)
    model.subgraphs[0].outputs = np.append(model.subgraphs[0].outputs, index).astype(np.int32)


def another_reads_it(model):
    index, part = first_weight(model), model.subgraphs[0]
    linear = next(
        item
        for item in part.operators
        if model.operatorCodes[item.opcodeIndex].builtinCode
        == schema.BuiltinOperator.FULLY_CONNECTED
    )
    linear.inputs = np.array([linear.inputs[0], index, -1], np.int32)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (gives_it_out, "the model gives it out"),
        (another_reads_it, "FULLY_CONNECTED uses it, too"),
        (another_has_its_bytes, "a tensor that stays as it is has the same bytes"),
    ],
)
def test_a_weight_that_something_else_uses_stays_and_is_named(change, why):
    model = unpacked(models()["static"])
    change(model)
    content = packed(model)
    found = widen_weights(content)
    assert found.notes == (
        "1 of 3 weights without a fast kernel for 4 bits stay so, and take several times as long "
        f"as in 8: tensor {first_weight(model)}: {why}",
    )
    types = [item.type for item in unpacked(found.model).subgraphs[0].tensors]
    assert types.count(INT4) == 1


def test_convolutions_that_share_a_weight_still_share_it():
    model = unpacked(models()["static"])
    index = first_weight(model)
    twin = unpacked(models()["static"]).subgraphs[0].tensors[index]
    model.subgraphs[0].tensors.append(twin)
    operator = next(item for item in model.subgraphs[0].operators if index in item.inputs)
    again = schema.OperatorT()
    again.__dict__.update(vars(operator))
    again.inputs = np.array(
        [operator.inputs[0], len(model.subgraphs[0].tensors) - 1, operator.inputs[2]], np.int32
    )
    result = unpacked(models()["static"]).subgraphs[0].tensors[int(operator.outputs[0])]
    model.subgraphs[0].tensors.append(result)
    again.outputs = np.array([len(model.subgraphs[0].tensors) - 1], np.int32)
    place = model.subgraphs[0].operators.index(operator)
    model.subgraphs[0].operators.insert(place + 1, again)
    content = packed(model)
    wide = widen_weights(content).model
    elements = int(np.prod(twin.shape))
    weights = sum(
        int(np.prod(model.subgraphs[0].tensors[index].shape))
        for name, index in readers(model)
        if name in CONVOLUTIONS
    )
    assert 0 < len(wide) - len(content) - (weights - elements) < 3 * 20  # lengths and padding
    np.testing.assert_array_equal(
        outputs(wide, OpResolverType.BUILTIN_REF), outputs(content, OpResolverType.BUILTIN_REF)
    )


def test_a_model_that_would_grow_too_large_stays_as_it_is_and_says_so(monkeypatch):
    content = models()["static"]
    monkeypatch.setattr(litert_widen, "_MOST_BYTES", len(content) + 1000)
    found = widen_weights(content)
    assert found.model is content
    assert "for 4 bits stay so" in found.notes[0]
    assert f"one .tflite holds {len(content) + 1000}" in found.notes[0]


def test_a_model_that_litert_reads_and_edgekit_does_not_runs_as_it_is_and_says_so():
    model = unpacked(models()["static"])
    tensor = model.subgraphs[0].tensors[first_weight(model)]
    tensor.shapeSignature = np.array([-9, *tensor.shape[1:]], np.int32)
    content = packed(model)
    found, notes = engine_outputs(content)
    np.testing.assert_array_equal(found, outputs(content))
    assert len(notes) == 1
    assert notes[0].startswith("any weights without a fast kernel for 4 bits stay so")
    assert "a tensor shape [-9" in notes[0]


def test_a_sparse_weight_is_not_patched():
    model = unpacked(models()["static"])
    model.subgraphs[0].tensors[first_weight(model)].sparsity = schema.SparsityParametersT()
    content = packed(model)
    found = widen_weights(content)
    assert found.model is content
    assert "is stored sparsely" in found.notes[0]


def test_buffers_that_are_one_are_not_patched():
    model = unpacked(models()["static"])
    weight = model.subgraphs[0].tensors[first_weight(model)]
    another_has_its_bytes(model)
    model.buffers.append(schema.BufferT(data=model.buffers[weight.buffer].data))
    model.subgraphs[0].tensors[-1].buffer = len(model.buffers) - 1
    content = packed(model)
    assert widen_weights(content).notes == ()  # the same bytes, twice
    # Through LiteRT's own accessors: the second buffer's entry becomes the first one's table.
    table = schema.Model.GetRootAs(content, 0)._tab
    entries = table.Vector(table.Offset(12))
    first, second = (entries + 4 * place for place in (weight.buffer, len(model.buffers) - 1))
    changed = bytearray(content)
    (step,) = struct.unpack_from("<I", changed, first)
    struct.pack_into("<I", changed, second, first + step - second)
    found = widen_weights(bytes(changed))
    assert found.model == bytes(changed)
    assert "several of its buffers or tensors are one" in found.notes[0]


def test_the_reference_kernels_and_inner_tensors_are_those_of_the_file():
    content = models()["static"]

    def loaded(**how):
        return LiteRtEngine(content, **how)._interpreter._model_content

    assert loaded(reference=True) == content
    assert loaded(keeps_inner=True) == content
    assert loaded() == widen_weights(content).model != content


def test_mutated_models_never_crash_the_loader():
    draw = np.random.default_rng(0)
    content = models()["static"]
    for _ in range(300):
        changed = bytearray(content)
        changed[int(draw.integers(0, len(content) // 4))] ^= 1 << int(draw.integers(0, 8))
        with contextlib.suppress(SessionError):
            LiteRtEngine(bytes(changed)).close()


def test_a_session_says_what_stays_in_four_bits(bundles, tmp_path):
    with runtime.open(seal_kept_weight(tmp_path / "kept")) as session:
        (note,) = session.notes
        assert session.run(artifacts.images(1))["scores"].shape == (1, 10)
    assert note.startswith("1 of 3 weights without a fast kernel for 4 bits stay so")
    for path in bundles.values():
        with runtime.open(path) as session:
            assert session.notes == ()
