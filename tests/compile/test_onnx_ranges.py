import json
import tracemalloc

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekit.compile.onnx_ranges import BINS, Samples, best_top, calibrate, count_values
from edgekit.core.errors import StepError
from edgekit.core.progress import Reporter
from edgekit.data.dataset import open_dataset
from tests.compile.onnx_tools import write_samples


def relu_net(weight, batch="batch"):
    shape = [batch, len(weight)]
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "w"], ["product"], name="mm"),
            helper.make_node("Relu", ["product"], ["y"], name="relu"),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(weight, "w")],
        value_info=[helper.make_tensor_value_info("product", TensorProto.FLOAT, shape)],
    )
    imports = [helper.make_opsetid("", 21)]
    return helper.make_model(graph, opset_imports=imports, ir_version=10)


def ranges_of(tmp_path, model, rows, batch=8):
    folder = write_samples(tmp_path / "set", [{"x": row} for row in rows])
    samples = Samples(
        dataset=lambda: open_dataset(folder),
        batch=batch,
        inputs={"x": "x"},
        reporter=Reporter(stage="test"),
    )
    calibrate(model, ("MatMul", "Relu"), samples, tmp_path / "ranges.json")
    plain = json.loads((tmp_path / "ranges.json").read_text())["data"]
    return {name: (item["lowest"], item["highest"]) for name, item in plain.items()}


def test_tensors_on_both_sides_of_zero_keep_their_full_range(tmp_path):
    rows = np.random.default_rng(0).standard_normal((30, 4)).astype(np.float32)
    weight = np.random.default_rng(1).standard_normal((4, 4)).astype(np.float32)
    found = ranges_of(tmp_path, relu_net(weight), rows)
    product = rows @ weight
    np.testing.assert_allclose(found["x"], (rows.min(), rows.max()), rtol=1e-6)
    np.testing.assert_allclose(found["product"], (product.min(), product.max()), rtol=1e-5)
    assert found["y"][0] == 0


def test_a_fixed_batch_is_filled_up_without_changing_the_ranges(tmp_path):
    rows = np.random.default_rng(0).standard_normal((5, 4)).astype(np.float32)
    found = ranges_of(tmp_path, relu_net(np.eye(4, dtype=np.float32), batch=3), rows, batch=3)
    np.testing.assert_allclose(found["product"], (rows.min(), rows.max()), rtol=1e-6)


def squared_error(values, top):
    step = top / 255
    return ((np.clip(np.rint(values / step), 0, 255) * step - values) ** 2).sum()


def test_the_best_top_loses_least_of_all_when_quantized_for_real():
    draw = np.random.default_rng(0)
    # Mostly small values and a thin tail, as after a ReLU of a deep layer.
    values = np.abs(np.append(draw.standard_normal(200_000), 12 * draw.random(6))).astype(
        np.float32
    )
    high = float(values.max())
    top = best_top(count_values(values, high), high)
    assert top < 0.9 * high
    others = [squared_error(values, high * share) for share in (0.4, 0.6, 0.8, 1.0)]
    assert squared_error(values, top) <= 1.01 * min(others)


def test_evenly_spread_values_are_not_clipped():
    values = np.linspace(0, 3, 10_000, dtype=np.float32)
    assert best_top(count_values(values, 3.0), 3.0) == pytest.approx(3.0)


def test_zeros_do_not_count():
    values = np.float32([0, 0, 0, 1.0])
    assert count_values(values, 1.0).sum() == 1
    assert count_values(values, 1.0)[BINS - 1] == 1
    assert not count_values(np.zeros(4, np.float32), 1.0).any()


@pytest.mark.parametrize("bad", [np.inf, np.nan])
def test_a_tensor_that_is_not_finite_is_refused(tmp_path, bad):
    rows = np.ones((3, 2), np.float32)
    rows[1, 1] = bad
    with pytest.raises(StepError, match=r"tensor 'x' takes the value"):
        ranges_of(tmp_path, relu_net(np.eye(2, dtype=np.float32)), rows)


def test_samples_of_another_shape_are_refused(tmp_path):
    with pytest.raises(StepError, match="does not take the calibration samples"):
        ranges_of(tmp_path, relu_net(np.eye(2, dtype=np.float32)), np.ones((3, 5), np.float32))


def peak_bytes(folder, count):
    rows = np.ones((count, 64), np.float32)
    folder.mkdir()
    model = relu_net(np.eye(64, dtype=np.float32))
    ranges_of(folder, onnx.ModelProto.FromString(model.SerializeToString()), rows[:1])
    for item in (folder / "set").iterdir():
        item.unlink()
    tracemalloc.start()
    ranges_of(folder, model, rows)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak - rows.nbytes


def test_memory_does_not_grow_with_the_number_of_samples(tmp_path):
    few, many = peak_bytes(tmp_path / "few", 50), peak_bytes(tmp_path / "many", 1000)
    # 950 samples of 64 numbers, three tensors each, would be 700 kB more.
    assert many - few < 200_000
