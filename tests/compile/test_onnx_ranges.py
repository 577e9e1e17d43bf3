import json

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekit.compile.onnx_ranges import Samples, calibrate, save_ranges
from edgekit.core.errors import StepError
from edgekit.core.progress import Reporter
from edgekit.core.strategy import Quantize
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


def ranges_of(tmp_path, model, rows, batch=8, **more):
    folder = write_samples(tmp_path / "set", [{"x": row} for row in rows])
    samples = Samples(
        dataset=lambda: open_dataset(folder),
        batch=batch,
        inputs={"x": "x"},
        reporter=Reporter(stage="test"),
    )
    settings = Quantize(precision="int8", activations="static", **more)
    found = calibrate(model, ("MatMul", "Relu"), samples, settings)
    save_ranges(found.ranges, tmp_path / "ranges.json")
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


@pytest.mark.parametrize("bad", [np.inf, np.nan])
def test_a_tensor_that_is_not_finite_is_refused(tmp_path, bad):
    rows = np.ones((3, 2), np.float32)
    rows[1, 1] = bad
    with pytest.raises(StepError, match=r"tensor 'x' takes the value"):
        ranges_of(tmp_path, relu_net(np.eye(2, dtype=np.float32)), rows)


def test_samples_of_another_shape_are_refused(tmp_path):
    with pytest.raises(StepError, match="does not take the calibration samples"):
        ranges_of(tmp_path, relu_net(np.eye(2, dtype=np.float32)), np.ones((3, 5), np.float32))
