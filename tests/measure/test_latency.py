import time
from dataclasses import replace

import numpy as np
import pytest

from edgekit.core.artifact import Binding
from edgekit.core.codec import from_plain
from edgekit.core.errors import WorkloadError
from edgekit.core.figure import Figure
from edgekit.core.progress import Reporter
from edgekit.core.stage import StageRequest
from edgekit.data.dataset import DatasetWriter
from edgekit.measure import latency
from edgekit.measure.latency import Pairs, interleave, is_decided, latency_figures, look_schedule
from tests.graph import artifacts as conv_artifacts
from tests.runtime import four_bits

from . import artifacts


def pairs_of(ratio, count=100, *, spread=0.2, looks=1, seed=0):
    generator = np.random.default_rng(seed)
    base = generator.lognormal(14, 0.3, count)  # the machine's own wandering, common to a pair
    noise = generator.lognormal(0, spread, count)
    return Pairs(reference=base, candidate=base * ratio * noise, looks=looks, calls_per_reading=1)


def test_the_ratio_is_the_median_of_pair_ratios_with_its_interval():
    pairs = pairs_of(0.5)
    ratio, before, after = latency_figures(pairs, threads=2, batch=1)
    ratios = np.sort(pairs.candidate / pairs.reference)
    assert ratio.value == pytest.approx(np.median(ratios))
    # Of 100 values the 40th and the 61st enclose the median with 96.5% (binomial tables).
    assert (ratio.low, ratio.high) == (ratios[39], ratios[60])
    assert (ratio.name, ratio.unit, ratio.samples) == ("latency_ratio", "ratio", 100)
    assert "2 thread(s)" in ratio.how
    assert before.value == pytest.approx(np.median(pairs.reference) / 1e6)
    assert (before.name, after.name, after.unit) == ("latency_float_ms", "latency_ms", "ms")
    assert f"minimum {pairs.candidate.min() / 1e6:.4g} ms" in after.how


def test_pairing_keeps_the_noise_of_the_machine_out():
    ratio, before, _ = latency_figures(pairs_of(0.5, spread=0.02), threads=1, batch=1)
    assert ratio.high - ratio.low < 0.02
    assert (before.high - before.low) / before.value > 0.05


def test_intervals_cover_the_true_ratio_over_all_looks():
    covered, schedule = [], (100, 200, 400)
    for seed in range(300):
        full = pairs_of(0.8, 400, looks=len(schedule), seed=seed)
        parts = [
            Pairs(
                reference=full.reference[:look],
                candidate=full.candidate[:look],
                looks=len(schedule),
                calls_per_reading=1,
            )
            for look in schedule
        ]
        intervals = [latency.ratio_of(part) for part in parts]
        covered.append(all(low <= 0.8 <= high for _, low, high in intervals))
    # 300 draws: standard error 1.3 points.
    assert np.mean(covered) >= 0.93


def test_a_bound_inside_the_interval_is_not_decided():
    pairs = pairs_of(0.5)
    assert is_decided(pairs, 0.7)
    assert is_decided(pairs, 0.3)
    assert not is_decided(pairs, 0.5)


def test_looks_double_up_to_the_maximum():
    assert look_schedule(100, 2000) == (100, 200, 400, 800, 1600, 2000)
    assert look_schedule(100, 100) == (100,)
    with pytest.raises(WorkloadError, match="200 to 100 pairs is no range"):
        look_schedule(200, 100)


def busy(seconds):
    def call():
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            pass

    return call


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(latency, "WARM_UP_S", 0.01)


def test_a_known_ratio_is_found(quick):
    pairs = interleave(busy(1e-3), busy(5e-4), bound=0.8, minimum=100, maximum=200)
    ratio = latency_figures(pairs, threads=1, batch=1)[0]
    # A busy loop on a busy machine: other processes stretch both, the median little.
    assert ratio.value == pytest.approx(0.5, abs=0.1)
    assert len(pairs.reference) == 100
    assert is_decided(pairs, 0.8)


def test_a_bound_that_cannot_be_decided_takes_all_pairs(quick):
    call = busy(2e-4)
    value = float(latency.ratio_of(interleave(call, call, minimum=10, maximum=10))[0])
    pairs = interleave(call, call, bound=value, minimum=10, maximum=80)
    assert len(pairs.reference) in (10, 20, 40, 80)
    undecided = interleave(call, call, bound=None, minimum=10, maximum=80)
    assert len(undecided.reference) == 10


def test_the_time_cap_ends_it_but_not_below_the_minimum(quick):
    call = busy(1e-3)
    pairs = interleave(call, call, bound=1.0, minimum=10, maximum=2000, time_cap_s=0.0)
    assert len(pairs.reference) == 10


def test_short_calls_are_read_many_at_a_time(quick):
    pairs = interleave(busy(1e-5), busy(1e-5), minimum=6, maximum=6)
    assert 5 <= pairs.calls_per_reading <= 25
    assert np.median(pairs.reference) < 1e5  # nanoseconds of one call, not of the reading


def test_order_alternates_and_collection_comes_back(quick):
    import gc

    calls = []
    latency._warm_up(lambda: calls.append("f"), lambda: calls.append("c"))
    calls.clear()
    for index in range(4):
        latency._one_pair(lambda: calls.append("f"), lambda: calls.append("c"), 1, index)
    assert "".join(calls) == "fccffccf"
    interleave(lambda: None, lambda: None, minimum=6, maximum=6)
    assert gc.isenabled()


def test_the_stage_times_two_artifacts(tmp_path, quick):
    size = 256
    weight = np.eye(size, dtype=np.float32)
    small = artifacts.write_onnx(tmp_path / "s", weight=weight, bias=weight[0])
    large = artifacts.write_onnx(tmp_path / "l", weight=weight, bias=weight[0], repeats=16)
    contract = artifacts.contract(size, size)
    data = artifacts.write_data(tmp_path / "d", np.ones((2, size), np.float32))
    events = []
    values = latency.measure(
        StageRequest(
            name="latency",
            handler="edgekit.measure.latency:measure",
            settings={
                "float_artifact": artifacts.plain(large),
                "artifact": artifacts.plain(small),
                "contract": artifacts.plain(contract),
                "threads": 1,
                "bound": 0.8,
                "maximum_pairs": 400,
            },
            inputs={
                "float": str(tmp_path / "l"),
                "artifact": str(tmp_path / "s"),
                "data": str(data),
            },
        ),
        tmp_path,
        Reporter(stage="latency", listener=events.append),
    )
    figures = [from_plain(Figure, item, where="figure") for item in values["figures"]]
    assert figures[0].name == "latency_ratio"
    assert figures[0].high < 0.8  # one layer against sixteen
    assert values["pairs"] >= 100
    assert values["batch"] == 1
    assert events


def test_artifacts_of_other_batches_cannot_be_compared(tmp_path):
    one = artifacts.write_onnx(tmp_path / "a", batch=1)
    two = artifacts.write_onnx(tmp_path / "b", batch=2)
    data = artifacts.write_data(tmp_path / "d", np.ones((2, 3), np.float32))
    request = StageRequest(
        name="latency",
        handler="edgekit.measure.latency:measure",
        settings={
            "float_artifact": artifacts.plain(one),
            "artifact": artifacts.plain(two),
            "contract": artifacts.plain(artifacts.contract()),
        },
        inputs={"float": str(tmp_path / "a"), "artifact": str(tmp_path / "b"), "data": str(data)},
    )
    with pytest.raises(WorkloadError, match="takes 1 samples at once and the compressed one 2"):
        latency.measure(request, tmp_path, Reporter(stage="latency"))


def test_the_stage_says_what_runs_slower_than_it_should(tmp_path, quick):
    contents = {
        "float": conv_artifacts.float_tflite("conv"),
        "artifact": four_bits.with_a_kept_weight(),
    }
    for folder, content in contents.items():
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "model.tflite").write_bytes(content)
    given, got = Binding(name="image", position=0), Binding(name="scores", position=0)
    artifact = replace(
        artifacts.artifact("model.tflite", "litert", 1), inputs=(given,), outputs=(got,)
    )
    with DatasetWriter(tmp_path / "data") as writer:
        writer.append({"image": conv_artifacts.images(1)[0]})
    request = StageRequest(
        name="latency",
        handler="edgekit.measure.latency:measure",
        settings={
            "float_artifact": artifacts.plain(artifact),
            "artifact": artifacts.plain(artifact),
            "contract": artifacts.plain(four_bits.contract()),
            "minimum_pairs": 10,
            "maximum_pairs": 10,
        },
        inputs={name: str(tmp_path / name) for name in (*contents, "data")},
    )
    events = []
    latency.measure(request, tmp_path, Reporter(stage="latency", listener=events.append))
    (note,) = [item.message for item in events if item.kind == "note"]
    assert note.startswith("1 of 3 weights without a fast kernel for 4 bits stay so")
