"""Small floats are what ml_dtypes and the NF4 paper make of the weights, and fold at load."""

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekit.compile.onnx_layers import find_layers
from edgekit.compile.onnx_small_floats import float8_codes, nf4_codes, store_small_floats
from edgekit.core.precision import NF4_LEVELS
from tests.compile.onnx_tools import constants, operators, session

RNG = np.random.default_rng(0)
KERNEL = RNG.standard_normal((10, 5, 3, 3)).astype(np.float32)
MATRIX = RNG.standard_normal((10, 20)).astype(np.float32)
HEAD = RNG.standard_normal((7, 20)).astype(np.float32)
IMAGE = RNG.standard_normal((1, 5, 8, 8)).astype(np.float32)
FLOAT8 = {
    "fp8_e4m3": (ml_dtypes.float8_e4m3fn, 448, TensorProto.FLOAT8E4M3FN),
    "fp8_e5m2": (ml_dtypes.float8_e5m2, 57344, TensorProto.FLOAT8E5M2),
}


def net(kernel=KERNEL, matrix=MATRIX, head=HEAD):
    """A convolution, a MatMul of (inputs, outputs) and a Gemm of (outputs, inputs)."""
    nodes = [
        helper.make_node("Conv", ["x", "kernel"], ["a"], name="conv"),
        helper.make_node("GlobalAveragePool", ["a"], ["b"], name="pool"),
        helper.make_node("Flatten", ["b"], ["c"], name="flat"),
        helper.make_node("MatMul", ["c", "matrix"], ["d"], name="matmul"),
        helper.make_node("Gemm", ["d", "head"], ["y"], name="gemm", transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, IMAGE.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, len(head)])],
        [
            numpy_helper.from_array(value, name)
            for name, value in (("kernel", kernel), ("matrix", matrix), ("head", head))
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def run(model, optimized=None):
    return session(model, optimized).run(None, {"x": IMAGE})[0]


def stored(precision, block=0, **weights):
    model = net(**weights)
    layers = find_layers(model, {})
    said = store_small_floats(model, layers, {item.weight: precision for item in layers}, block)
    onnx.checker.check_model(model, full_check=True)
    return model, said


def nf4(weight, block):
    """What NF4 stands for, one weight after another. Shapes: the same."""
    flat, levels = weight.reshape(-1), np.float32(NF4_LEVELS)
    found = np.zeros_like(flat)
    for start in range(0, len(flat), block):
        part = flat[start : start + block]
        scale = max(abs(part)) or np.float32(1)
        for place, value in enumerate(part):
            nearest = min(levels, key=lambda level, share=value / scale: abs(level - share))
            found[start + place] = nearest * scale
    return found.reshape(weight.shape)


def float8(weight, axis, precision):
    kind, top, _ = FLOAT8[precision]
    rest = tuple(place for place in range(weight.ndim) if place != axis)
    scale = np.abs(weight).max(axis=rest, keepdims=True) / np.float32(top)
    return (weight / scale).astype(kind).astype(np.float32) * scale


def test_bfloat16_weights_are_those_of_ml_dtypes():
    model, _ = stored("bf16")
    rounded = {
        name: value.astype(ml_dtypes.bfloat16).astype(np.float32)
        for name, value in (("kernel", KERNEL), ("matrix", MATRIX), ("head", HEAD))
    }
    # The same kernels on the same numbers.
    np.testing.assert_array_equal(run(model), run(net(**rounded)))
    kept = constants(model)["kernel_bf16"]
    assert kept.data_type == TensorProto.BFLOAT16
    assert len(kept.raw_data) == 2 * KERNEL.size


@pytest.mark.parametrize("precision", FLOAT8)
def test_8_bit_floats_have_a_scale_for_each_output_channel(precision):
    model, _ = stored(precision)
    rounded = {
        "kernel": float8(KERNEL, 0, precision),
        "matrix": float8(MATRIX, 1, precision),
        "head": float8(HEAD, 0, precision),
    }
    np.testing.assert_allclose(run(model), run(net(**rounded)), rtol=1e-5)
    kept = constants(model)["kernel_fp8"]
    assert (kept.data_type, len(kept.raw_data)) == (FLOAT8[precision][2], KERNEL.size)


@pytest.mark.parametrize("precision", FLOAT8)
def test_the_largest_weight_of_a_channel_is_the_largest_8_bit_float(precision):
    kind, top, _ = FLOAT8[precision]
    codes, scales = float8_codes(np.float32([[0.5, -2.0, 0.0], [1e-30, 0.0, 0.0]]), 0, precision)
    assert codes.dtype == kind
    np.testing.assert_array_equal(codes[0].astype(np.float32), [top / 4, -top, 0])
    np.testing.assert_allclose(scales, [2.0 / top, 1e-30 / top], rtol=1e-6)
    nothing, one = float8_codes(np.zeros((1, 3), np.float32), 0, precision)
    assert (nothing.astype(np.float32).any(), one.tolist()) == (False, [1.0])


@pytest.mark.parametrize("block", [0, 16])
def test_nf4_blocks_are_those_of_the_torch_layers(block):
    model, _ = stored("nf4", block)
    size = block or 64
    # (inputs, outputs) in ONNX, (outputs, inputs) in torch: blocks run along the latter's rows.
    rounded = {
        "kernel": nf4(KERNEL, size),
        "matrix": nf4(MATRIX.T, size).T.copy(),
        "head": nf4(HEAD, size),
    }
    np.testing.assert_allclose(run(model), run(net(**rounded)), rtol=1e-5)
    kept = constants(model)["kernel_nf4"]
    blocks = -(-KERNEL.size // size)
    assert (kept.data_type, list(kept.dims)) == (TensorProto.UINT4, [blocks, size])


def test_a_last_block_that_is_not_full_is_filled_with_zeros():
    weight = np.float32([[1.0, -0.5, 0.25]])
    codes, scales = nf4_codes(weight, 16)
    # -0.525 is nearest to -0.5, 0.246 to 0.25; code 7 is zero.
    assert codes.tolist() == [[15, 2, 10, *[7] * 13]]
    assert scales.tolist() == [1.0]


def test_blocks_of_zeros_stay_zeros():
    codes, scales = nf4_codes(np.zeros((2, 16), np.float32), 16)
    assert (set(codes.reshape(-1).tolist()), scales.tolist()) == ({7}, [1.0, 1.0])


@pytest.mark.parametrize("precision", ["bf16", *FLOAT8, "nf4"])
def test_onnx_runtime_folds_what_widens_the_weights(tmp_path, precision):
    model, said = stored(precision)
    run(model, tmp_path / "run.onnx")
    assert said == []
    ran = operators(onnx.load(tmp_path / "run.onnx"))
    assert not {"Cast", "Gather", "Mul", "Slice", "Transpose"} & set(ran)


def test_values_past_bfloat16_stay_float32_and_are_named():
    large = KERNEL.copy()
    large[0, 0, 0, 0] = np.finfo(np.float32).max
    model, said = stored("bf16", kernel=large)
    assert said == ["stay float32, past bfloat16's range: kernel"]
    assert constants(model)["kernel"].data_type == TensorProto.FLOAT
    assert "matrix_bf16" in constants(model)


def test_weights_too_few_to_gain_stay_as_they_are():
    model, _ = stored("nf4", head=HEAD[:2])
    assert constants(model)["head"].data_type == TensorProto.FLOAT
