"""What is measured of a build, and what this host may not say."""

from types import SimpleNamespace

import pytest

from edgekit.catalog import load_profile
from edgekit.core.figure import Figure, Place, Provenance
from edgekit.core.progress import Reporter
from edgekit.core.verdict import Status, judge
from edgekit.flow import measuring
from edgekit.flow.measuring import Measurer


def measurer(device, heard, **profile_changes):
    from dataclasses import replace

    profile = replace(load_profile(device), **profile_changes)
    plan = SimpleNamespace(profile=profile, quantize=None, target=None, limits=profile.limits)
    model = SimpleNamespace(contract=None, source=SimpleNamespace(format="onnx"))
    return Measurer(model, plan, None, None, Reporter(stage="build", listener=heard.append))


def test_a_host_with_fewer_cores_than_the_profile_asks_says_so(monkeypatch):
    monkeypatch.setattr(measuring, "cpu_count", lambda: 2)
    heard = []
    assert measurer("phone", heard, threads=8).threads == 2
    (warning,) = heard
    assert warning.kind == "warning"
    assert "measured at 2 thread(s), not the profile's 8" in warning.message
    heard.clear()
    assert measurer("phone", heard, threads=2).threads == 2
    assert heard == []


def test_a_graph_source_has_no_torch_reference():
    assert measurer("phone", []).torch_reference(None) is None


def test_a_ratio_of_another_processor_is_pending_and_says_what_it_was_here(monkeypatch):
    monkeypatch.setattr(measuring, "machine", lambda: "x86_64")
    ratio = Figure(
        name="latency_ratio",
        value=0.731,
        unit="ratio",
        provenance=Provenance.MEASURED,
        place=Place.HOST,
        how="",
    )
    found = measurer("phone", [])._pending_latency(ratio)
    (limit,) = [item for item in load_profile("phone").limits if item.figure == "latency_ratio"]
    judgement = judge(limit, found)
    assert judgement.status is Status.PENDING
    assert "laid out for aarch64, and this host is x86_64" in judgement.reason
    assert "takes 0.731 of float's time" in judgement.reason


@pytest.mark.slow
def test_every_figure_says_how_and_where_it_was_got(builds):
    figures = {item.name: item for item in builds.honest("phone").evidence.figures}
    assert {
        "artifact_bytes",
        "compressed_bytes",
        "artifact_float_bytes",
        "footprint_bytes",
        "peak_memory_bytes",
        "load_ms",
        "metric_drop",
        "metric_float",
        "latency_ratio",
        "latency_ms",
    } <= set(figures)
    assert all(item.how for item in figures.values())
    measured = {name for name, item in figures.items() if item.provenance is Provenance.MEASURED}
    assert set(figures) - measured <= {"footprint_bytes"}
    assert figures["artifact_float_bytes"].value > 2 * figures["artifact_bytes"].value
    assert any("parity" in name or "export" in name for name in figures)
