import numpy as np
import pytest

from edgekit.compile.calibration import Run, Watched, calibrate
from edgekit.compile.range_drift import compare, keep, read_kept
from edgekit.core.calibration import Calibration
from edgekit.core.strategy import Quantize

STATIC = Quantize(precision="int8", activations="static")
WATCHED = Watched(names=("x", "y"))


def run_of(x, y):
    return Run(samples=len(x), tensors={"x": x, "y": y})


def draws(seed, scale=1.0):
    values = np.random.default_rng(seed).standard_normal((32, 100)).astype(np.float32)
    return run_of(values, np.float32(scale) * values[::-1])


def kept_of(tmp_path, run, method="min_max"):
    found = calibrate([run], WATCHED, Calibration(method=method), count=32)
    answer = keep(found, STATIC, tmp_path)
    return answer, read_kept(tmp_path)


def test_the_data_that_gave_the_ranges_lie_inside(tmp_path):
    run = draws(0)
    _, kept = kept_of(tmp_path, run)
    found = compare([run], WATCHED, kept)
    assert found["share"] == 0
    assert [item["share"] for item in found["worst"]] == [0, 0]


def test_data_of_another_scale_are_named_by_tensor_with_their_share(tmp_path):
    _, kept = kept_of(tmp_path, draws(0))
    other = draws(1, scale=3.0)
    found = compare([other], WATCHED, kept)
    worst = found["worst"][0]
    low, high = kept.ranges["y"].low, kept.ranges["y"].high
    slack = (high - low) / 255 / 2
    y = other.tensors["y"]
    assert worst["tensor"] == "y"
    assert worst["share"] == pytest.approx(((y < low - slack) | (y > high + slack)).mean())


def test_what_the_method_itself_leaves_outside_stands_beside(tmp_path):
    run = draws(0)
    _, kept = kept_of(tmp_path, run, method="percentile")
    found = compare([run], WATCHED, kept)
    for item in found["worst"]:
        # A bin counts by its middle, and few values lie at an end.
        assert item["share"] == pytest.approx(item["before"], abs=1e-3)


def test_nothing_is_kept_where_nothing_was_calibrated(tmp_path):
    assert keep(None, STATIC, tmp_path) == {}
    assert not any(tmp_path.iterdir())
