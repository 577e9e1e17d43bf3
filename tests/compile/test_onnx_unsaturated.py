import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from torch.nn import functional

from edgekit.compile.onnx_grid import along, int8_scales
from edgekit.compile.onnx_layers import Layer
from edgekit.compile.onnx_unsaturated import PAIR_MAX, put_on_grid, unsaturated

RUNNER = Path(__file__).parent / "run_kernels.py"
# AVX2 and no VNNI.
PROCESSOR = "Haswell"
CONVOLUTIONS = {
    "conv": ((24, 16, 3, 3), 1),
    "odd_conv": ((16, 3, 5, 5), 1),
    "pointwise": ((32, 24, 1, 1), 1),
    "grouped": ((16, 4, 3, 3), 4),
    "line": ((16, 8, 5), 1),
    "depthwise": ((16, 1, 3, 3), 16),
}
MATRICES = {"matrix": (64, 48), "odd_matrix": (33, 20), "large": (300, 70)}


def layer_of(operator, kind="matrix", axis=1):
    return Layer(
        nodes=("node",), operator=operator, weight="w", module_path="w", kind=kind, axis=axis
    )


def conv_layer(group):
    return layer_of("Conv", "conv" if group < 16 else "depthwise", 0)


def heavy(rng, shape):
    """Weights with far ones, two neighbours of which are large together now and then."""
    return rng.standard_t(2.5, shape).astype(np.float32)


@given(st.integers(1, 9), st.integers(1, 12), st.integers(0, 10_000))
def test_no_pair_of_inputs_sums_beyond_what_sixteen_bits_hold(inputs, outputs, seed):
    weight = heavy(np.random.default_rng(seed), (inputs, outputs))
    values, scales = unsaturated(weight, layer_of("MatMul"))
    assert values.dtype == np.int8
    for column in values.T.astype(int):
        for at in range(0, inputs, 2):
            pair = column[at : at + 2]
            assert 255 * pair[pair > 0].sum() <= np.iinfo(np.int16).max
            assert 255 * pair[pair < 0].sum() >= np.iinfo(np.int16).min
    # A pair that gives way does so by what it is beyond, and nothing else moves.
    exact = weight / scales
    assert np.abs(values - exact).max() <= max(np.abs(exact).max() - PAIR_MAX / 2, 0) + 1.5


def test_pairs_are_far_nearer_to_their_weights_than_in_seven_bits():
    weight = np.random.default_rng(0).standard_normal((384, 256)).astype(np.float32)
    values, scales = unsaturated(weight, layer_of("MatMul"))

    def error(scale):
        return ((np.rint(weight / scale) * scale - weight) ** 2).sum()

    seven = error(int8_scales(weight, 1, is_range_reduced=True))
    eight = error(int8_scales(weight, 1))
    ours = ((values * scales - weight) ** 2).sum()
    assert eight < ours < 0.55 * seven


def test_what_lies_on_the_grid_of_seven_bits_stays_there():
    rng = np.random.default_rng(0)
    steps = rng.integers(-64, 65, (40, 16)).astype(np.float32)
    steps[0] = 64
    values, scales = unsaturated(steps * np.float32(0.37), layer_of("MatMul"))
    np.testing.assert_array_equal(values, steps)
    np.testing.assert_allclose(scales, 0.37, rtol=1e-6)
    depthwise = (steps.T * np.float32(0.37)).reshape(16, 1, 5, 8)
    values, _ = unsaturated(depthwise, layer_of("Conv", "depthwise", 0))
    np.testing.assert_array_equal(values.reshape(16, 40), steps.T)


def test_channels_of_zeros_have_a_scale():
    values, scales = unsaturated(np.zeros((4, 3), np.float32), layer_of("MatMul"))
    assert not values.any()
    assert (scales > 0).all()


def test_a_graph_keeps_its_own_weights():
    weight = heavy(np.random.default_rng(0), (6, 4))
    graph = helper.make_graph([], "g", [], [], [numpy_helper.from_array(weight, "w")])
    model = helper.make_model(graph)
    made, scales = put_on_grid(model, [layer_of("Gemm")])
    steps = numpy_helper.to_array(made.graph.initializer[0]) / scales["w"]
    np.testing.assert_allclose(steps, np.rint(steps), atol=1e-4)
    np.testing.assert_array_equal(numpy_helper.to_array(model.graph.initializer[0]), weight)


def emulator():
    found = shutil.which("qemu-x86_64")
    if found is None:
        message = "no qemu-x86_64; on Debian: apt-get install qemu-user"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return found


def write(folder, name, operator, values, inputs, result_scale, **attributes):
    """A model of one integer kernel, and its inputs."""
    numbers = {
        "x_scale": np.float32(1),
        "x_zero": np.uint8(0),
        "w": values,
        "w_scale": np.float32(1),
        "w_zero": np.int8(0),
        "y_scale": np.float32(result_scale),
        "y_zero": np.uint8(128),
    }
    graph = helper.make_graph(
        [helper.make_node(operator, ["x", *numbers], ["y"], **attributes)],
        name,
        [helper.make_tensor_value_info("x", TensorProto.UINT8, inputs.shape)],
        [helper.make_tensor_value_info("y", TensorProto.UINT8, None)],
        [numpy_helper.from_array(np.asarray(value), key) for key, value in numbers.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, folder / f"{name}.onnx")
    np.savez(folder / f"{name}.npz", x=inputs)


def cases(folder, choose):
    """Every kernel with these integers, and what it should give, in steps before rounding."""
    rng, wanted = np.random.default_rng(0), {}
    for name, (shape, group) in CONVOLUTIONS.items():
        values = choose(heavy(rng, shape), conv_layer(group))
        sizes = (3, shape[1] * group, *[9] * (len(shape) - 2))
        given = (rng.integers(0, 2, sizes) * 255).astype(np.uint8)
        convolve = functional.conv1d if len(shape) == 3 else functional.conv2d
        exact = convolve(
            torch.from_numpy(given).double(), torch.from_numpy(values).double(), groups=group
        ).numpy()
        scale = np.abs(exact).max() / 120
        wanted[name] = exact / scale + 128
        write(folder, name, "QLinearConv", values, given, scale, group=group)
    for name, shape in MATRICES.items():
        values = choose(heavy(rng, shape), layer_of("MatMul"))
        given = (rng.integers(0, 2, (7, shape[0])) * 255).astype(np.uint8)
        exact = given.astype(np.float64) @ values
        scale = np.abs(exact).max() / 120
        wanted[name] = exact / scale + 128
        write(folder, name, "QLinearMatMul", values, given, scale)
    return wanted


def run_emulated(folder):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [emulator(), "-cpu", PROCESSOR, os.path.realpath(sys.executable), RUNNER, folder]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return {path.stem: np.load(path) for path in sorted(folder.glob("*.npy"))}


def plain(weight, layer):
    scales = along(int8_scales(weight, layer.axis), layer.axis, weight.ndim)
    return np.rint(weight / scales).astype(np.int8)


def test_kernels_without_vnni_give_what_the_integers_say(tmp_path):
    wanted = cases(tmp_path, lambda weight, layer: unsaturated(weight, layer)[0])
    for name, found in run_emulated(tmp_path).items():
        assert np.abs(found - wanted.pop(name)).max() <= 0.501, name
    assert not wanted


def test_the_same_kernels_saturate_where_eight_bits_are_used_in_full(tmp_path):
    wanted = cases(tmp_path, plain)
    found = run_emulated(tmp_path)
    wrong = {name for name in found if np.abs(found[name] - wanted[name]).max() > 1}
    assert wrong == {*CONVOLUTIONS, *MATRICES} - {"depthwise"}
