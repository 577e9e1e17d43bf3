"""Ranges that a training step found are those of the artifact that is built from it."""

import os
from pathlib import Path

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter

from edgekit.graph.ranges import FILE, read_ranges
from tests.flow.test_compressing import Heard, build, profile, workload

# A rate of its own makes the step, and so its file among the results, this test's own.
TRAIN = '{ epochs = 2, learning_rate = 0.011, rounding = { precision = "auto", method = "lsq" } }'


def static_profile(folder, *steps):
    """The tested profile with static activations."""
    path = Path(profile(folder, *steps))
    static = 'precision = "int8", activations = "static"'
    path.write_text(path.read_text().replace('precision = "int8"', static))
    return str(path)


def activation_steps(result):
    """The step of each 8-bit activation, by the runtime's own reader."""
    details = Interpreter(str(result.bundle / "model" / "model.tflite")).get_tensor_details()
    return {item["quantization"][0] for item in details if item["dtype"] == np.int8}


@pytest.mark.slow
def test_a_build_stores_the_ranges_that_were_trained(builds, tmp_path):
    heard = Heard()
    device = static_profile(tmp_path, ("train", TRAIN))
    results = Path(os.environ["EDGEKIT_CACHE"])
    before = set(results.rglob(FILE))
    result = build(builds, device, workload(), target="litert", listener=heard)
    (told,) = (note for note in heard.notes("quantize") if "that they were trained with" in note)
    # One of the two heads is no output of this model.
    assert "calibrated: network.other linear" in told
    (kept,) = set(results.rglob(FILE)) - before
    wanted = [item for item in read_ranges(kept.parent) if "other" not in item.point]
    assert len(wanted) >= 5
    found = np.array(sorted(activation_steps(result)))
    for item in wanted:
        step = (item.high - item.low) / 255
        assert np.abs(found / step - 1).min() < 1e-5, item.point
