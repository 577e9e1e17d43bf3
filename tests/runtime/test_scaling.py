"""Scaling at integer boundaries, against LiteRT's own QUANTIZE and DEQUANTIZE."""

import flatbuffers
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from edgekit.core.errors import SessionError
from edgekit.runtime.engine import EngineTensor
from edgekit.runtime.scaling import from_stored, reading, storing, to_stored

STORED = {
    "int8": schema.TensorType.INT8,
    "uint8": schema.TensorType.UINT8,
    "int16": schema.TensorType.INT16,
}


def one_operator(code, shape, dtype, scale, zero_point, *, is_quantizing) -> bytes:
    """A model of one QUANTIZE or DEQUANTIZE."""

    def tensor(name, kind, quantization=None):
        made = schema.TensorT()
        made.name, made.shape, made.type, made.buffer = name, list(shape), kind, 0
        made.quantization = quantization
        return made

    quantization = schema.QuantizationParametersT()
    quantization.scale, quantization.zeroPoint = [scale], [zero_point]
    pair = [
        tensor(b"real", schema.TensorType.FLOAT32),
        tensor(b"stored", STORED[dtype], quantization),
    ]
    operator_code = schema.OperatorCodeT()
    operator_code.builtinCode = operator_code.deprecatedBuiltinCode = code
    operator_code.version = 2
    operator = schema.OperatorT()
    graph = schema.SubGraphT()
    graph.tensors, graph.operators = pair, [operator]
    first, last = (0, 1) if is_quantizing else (1, 0)
    operator.opcodeIndex, operator.inputs, operator.outputs = 0, [first], [last]
    graph.inputs, graph.outputs = [first], [last]
    model = schema.ModelT()
    model.version, model.operatorCodes, model.subgraphs = 3, [operator_code], [graph]
    model.buffers = [schema.BufferT()]
    builder = flatbuffers.Builder(0)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def litert(model, value, resolver=OpResolverType.AUTO):
    raw = Interpreter(model_content=model, experimental_op_resolver_type=resolver)
    raw.allocate_tensors()
    raw.set_tensor(raw.get_input_details()[0]["index"], value)
    raw.invoke()
    return raw.get_tensor(raw.get_output_details()[0]["index"])


def tensor(dtype, scale=0.0, zero_point=0):
    return EngineTensor(
        name="t", dtype=np.dtype(dtype), shape=(1, -1), scale=scale, zero_point=zero_point
    )


@pytest.mark.parametrize(("dtype", "zero_point"), [("int8", -7), ("uint8", 131), ("int16", 0)])
@pytest.mark.parametrize("scale", [0.0187, 1 / 127, 0.5])
def test_quantizing_is_litert_s_own_kernel(dtype, zero_point, scale):
    scale = float(np.float32(scale))
    draw = np.random.default_rng(0)
    span = scale * np.iinfo(dtype).max * 2
    real = draw.uniform(-span, span, (1, 20_000)).astype(np.float32)
    real[0, :64] = (np.arange(64) - 32.5) * np.float32(scale)  # ties
    real[0, 64:66] = np.inf, -np.inf
    quantize = one_operator(
        schema.BuiltinOperator.QUANTIZE, real.shape, dtype, scale, zero_point, is_quantizing=True
    )
    found = to_stored(real, tensor(dtype, scale, zero_point))
    assert found.dtype == np.dtype(dtype)
    assert found[0, 64] == np.iinfo(dtype).max
    assert found[0, 65] == np.iinfo(dtype).min
    real[0, 64:66] = 0.5 * np.float32(scale)
    found = to_stored(real, tensor(dtype, scale, zero_point))
    wanted = litert(quantize, real)
    reference = litert(quantize, real, OpResolverType.BUILTIN_REF)
    # LiteRT multiplies by the reciprocal and its reference kernel rounds ties away from zero: the
    # three agree everywhere but within rounding noise of a tie, and there by one step.
    distance = np.abs(np.abs(real.astype(np.float64) / scale) % 1 - 0.5)
    is_tie = distance < 1e-6 * np.abs(real / np.float32(scale)).clip(1)
    assert is_tie[0, :64].all()
    assert is_tie.mean() < 0.1
    for other in (wanted, reference):
        np.testing.assert_array_equal(found[~is_tie], other[~is_tie])
        assert np.abs(found.astype(np.int32) - other.astype(np.int32)).max() <= 1
    if scale == 0.5:  # the reciprocal is exact: ties are ties for both
        np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize(("dtype", "zero_point"), [("int8", -7), ("uint8", 131), ("int16", 0)])
def test_dequantizing_is_litert_s_own_kernel(dtype, zero_point):
    scale = float(np.float32(0.0187))
    limits = np.iinfo(dtype)
    stored = np.arange(limits.min, limits.max + 1, dtype=dtype)[None]
    dequantize = one_operator(
        schema.BuiltinOperator.DEQUANTIZE,
        stored.shape,
        dtype,
        scale,
        zero_point,
        is_quantizing=False,
    )
    found = from_stored(stored, tensor(dtype, scale, zero_point))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, litert(dequantize, stored), rtol=2e-7)


def test_nan_has_no_integer():
    with pytest.raises(SessionError, match="input 't': holds NaN"):
        to_stored(np.float32([[0.0, np.nan]]), tensor("int8", 0.1))


def test_huge_values_saturate_without_a_warning():
    found = to_stored(np.float32([[3e38, -3e38]]), tensor("int8", 1e-6))
    np.testing.assert_array_equal(found, [[127, -128]])


def test_scaling_leaves_the_input_alone():
    real = np.float32([[0.25, 0.5]])
    to_stored(real, tensor("int8", 0.1, 3))
    np.testing.assert_array_equal(real, np.float32([[0.25, 0.5]]))


@pytest.mark.parametrize(
    ("contract", "artifact"),
    [("float32", "float32"), ("float32", "float16"), ("int64", "int32"), ("int64", "int64")],
)
def test_plain_dtypes_pass_both_ways(contract, artifact):
    values = np.array([[1, 2, 3]], dtype=contract)
    stored = storing(np.dtype(contract), tensor(artifact), where="x")(values)
    assert stored.dtype == np.dtype(artifact)
    back = reading(np.dtype(contract), tensor(artifact), where="x")(stored)
    assert back.dtype == np.dtype(contract)
    np.testing.assert_array_equal(back, values)


def test_whole_numbers_that_do_not_fit_are_refused():
    with pytest.raises(SessionError, match="do not fit into int32"):
        to_stored(np.array([[2**40]]), tensor("int32"))


@pytest.mark.parametrize(
    ("contract", "artifact"),
    [
        ("float32", tensor("int8")),
        ("int64", tensor("int8", 0.1)),
        ("bool", tensor("uint8")),
        ("int32", tensor("float32")),
        ("float32", tensor("int32", 0.1)),
    ],
)
def test_dtypes_without_a_meaning_are_refused(contract, artifact):
    with pytest.raises(SessionError, match="x: "):
        storing(np.dtype(contract), artifact, where="x")
    if artifact.dtype != np.int32:
        with pytest.raises(SessionError, match="the artifact gives"):
            reading(np.dtype(contract), artifact, where="x")
