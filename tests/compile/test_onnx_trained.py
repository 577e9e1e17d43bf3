"""Trained ranges on an ONNX graph: which tensors they are of, and what they allow."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekit.compile.onnx_ranges import Samples
from edgekit.compile.onnx_trained import has_loose_activations, trained_ranges
from edgekit.data.dataset import open_dataset
from edgekit.graph.ranges import TrainedRange, fingerprint
from tests.compile import onnx_tools
from tests.compress.benches import SILENT

ROWS = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)


def clipped(batch="n"):
    """y = clip(relu(x), 0, 6) over vectors of four."""
    constants = [
        numpy_helper.from_array(np.array(value, np.float32), name)
        for name, value in (("low", 0.0), ("high", 6.0))
    ]
    nodes = [
        helper.make_node("Relu", ["x"], ["r"], name="relu"),
        helper.make_node("Clip", ["r", "low", "high"], ["y"], name="clip"),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, 4]) for name in "xy"]
    graph = helper.make_graph(nodes, "clipped", [ends[0]], [ends[1]], constants)
    opset = [helper.make_opsetid("", 20)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=9)
    return onnx.shape_inference.infer_shapes(model)


def samples(folder, *, batch=8, is_fixed=False):
    data = onnx_tools.write_samples(folder / "data", [{"x": row} for row in ROWS])
    return Samples(
        dataset=lambda: open_dataset(data),
        batch=batch,
        is_batch_fixed=is_fixed,
        inputs={"x": "x"},
        reporter=SILENT,
    )


def point(name, function, **ends):
    prints = tuple(fingerprint(function(ROWS[number])) for number in range(2))
    return TrainedRange(point=name, prints=prints, **{"low": 0.0, "high": 2.0, **ends})


POINTS = [
    point("input", lambda row: row, low=-3.0),
    point("relu", lambda row: row.clip(0)),
    point("other", lambda row: row * 2),
]


def test_tensors_are_known_by_the_first_samples_one_at_a_time(tmp_path):
    found = trained_ranges(clipped(), POINTS, samples(tmp_path))
    # Nothing is past 6 here, so the clip gives what it gets.
    assert found.known == {"x": (-3.0, 2.0), "r": (0.0, 2.0), "y": (0.0, 2.0)}
    assert found.missing == ("other",)


def test_nodes_that_stay_float_take_no_part(tmp_path):
    found = trained_ranges(clipped(), POINTS, samples(tmp_path), excluded=["relu"])
    assert set(found.known) == {"r", "y"}


def test_a_larger_fixed_batch_has_none(tmp_path):
    found = trained_ranges(clipped(4), POINTS, samples(tmp_path, batch=4, is_fixed=True))
    assert not found.known
    assert found.missing == ("input", "relu", "other")


@pytest.mark.parametrize(
    ("known", "is_loose"),
    [
        ({}, False),
        ({"r": (0.0, 9.0), "y": (0.0, 6.00001)}, False),
        ({"r": (-0.1, 9.0)}, True),
        ({"y": (0.0, 6.1)}, True),
        ({"y": (-0.1, 6.0)}, True),
        ({"x": (-5.0, 9.0)}, False),
    ],
)
def test_a_range_past_an_activations_end_keeps_the_activation(known, is_loose):
    assert has_loose_activations(clipped(), known) == is_loose
