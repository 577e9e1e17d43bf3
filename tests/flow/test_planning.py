"""Dry runs: what is decided for one device, and how a model stands with all of them."""

import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import edgekit
from edgekit.catalog import find_profiles, load_target
from edgekit.core.errors import CompileError, MissingDependencyError, StepError
from edgekit.core.figure import Figure, Place, Provenance
from edgekit.core.verdict import Limit, Sense
from edgekit.flow import planning
from edgekit.flow.planning import compiler_of, installed, quantize_of
from tests.flow.tiny import network, workload


@pytest.fixture(scope="module")
def phone():
    return edgekit.plan(workload(), device="phone")


def test_a_plan_gives_every_step_a_reason(phone):
    steps = {step.name: step for step in phone.strategy.steps}
    assert not steps["distil"].is_run
    assert steps["quantize"].is_run
    assert all(step.reason for step in phone.strategy.steps)
    assert quantize_of(phone.strategy).activations == "static"
    assert phone.notes == (f"step 'distil' is skipped: {steps['distil'].reason}",)


def test_a_plan_holds_every_operator_against_every_target(phone):
    targets = [line.target for line in phone.support]
    assert targets[0] == "litert"
    assert {"litert", "onnx"} <= set(targets)
    (conv,) = [
        line for line in phone.support if line.target == "onnx" and "conv2d" in line.operator
    ]
    assert conv.count == 3
    assert conv.support == "native"
    assert any(path.endswith("second") for path in conv.module_paths)


def test_a_plan_estimates_and_says_that_it_does(phone):
    figures = {figure.name: figure for figure in phone.estimates}
    assert {figure.provenance for figure in figures.values()} == {Provenance.ESTIMATED}
    # 2304 + 2304 + 144 + 64 weights of a byte, and what stands around them.
    assert 4_816 < figures["artifact_bytes"].value < 12_000


def test_a_plan_can_be_told_otherwise():
    found = edgekit.plan(
        workload(),
        device="phone",
        target="onnx",
        layers={"second": "float"},
        settings={"quantize": {"activations": "dynamic"}},
    )
    settings = quantize_of(found.strategy)
    assert settings.activations == "dynamic"
    assert [item.pattern for item in settings.overrides] == ["second"]
    assert found.target.name == "onnx"


class Transform(nn.Module):
    def __init__(self):
        super().__init__()
        self.network = network()

    def forward(self, image):
        return self.network(torch.fft.fft2(image).abs())[0]


def test_a_plan_shows_an_unsupported_operator_and_goes_on():
    found = edgekit.plan(workload(model=Transform().eval()), device="phone")
    bad = [line for line in found.support if line.support == "unsupported"]
    assert any("fft" in line.operator for line in bad)


def test_fit_says_of_every_device_whether_the_model_fits_in_under_a_minute():
    started = time.monotonic()
    lines = {line.device: line for line in edgekit.fit(workload())}
    assert time.monotonic() - started < 60
    assert set(lines) == {entry.name for entry in find_profiles()}
    assert lines["phone"].outcome == "fits"
    assert "latency_ratio" in lines["phone"].reason


def test_fit_names_what_does_not_fit_and_by_how_much():
    class Large(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(144, 20_000)

        def forward(self, image):
            return self.layer(image.flatten(1))

    given = workload(model=Large().eval(), outputs={"scores": edgekit.Output()})
    lines = {line.device: line for line in edgekit.fit(given)}
    assert lines["embedded"].outcome == "does not fit"
    assert "artifact_bytes is about" in lines["embedded"].reason
    assert "(estimated), at most 524 kB" in lines["embedded"].reason
    assert lines["phone"].outcome == "fits"


def test_fit_names_an_operator_that_no_target_takes():
    lines = edgekit.fit(workload(model=Transform().eval()))
    assert {line.outcome for line in lines} == {"not supported"}
    assert all("fft" in line.reason for line in lines)


def test_a_target_with_an_unknown_compiler_is_a_missing_component():
    target = replace(load_target("onnx"), compiler="onyx")
    with pytest.raises(
        MissingDependencyError, match="no compiler 'onyx' is installed; did you mean"
    ):
        compiler_of(target)


def test_two_plug_ins_of_one_name_are_an_error_that_names_both(monkeypatch):
    points = [SimpleNamespace(name="x", value=f"package_{i}:y") for i in "ab"]
    monkeypatch.setattr(planning, "entry_points", lambda group: points)
    with pytest.raises(StepError, match=r"register 'x' in g: package_a:y and package_b:y"):
        installed("g")


def test_a_model_in_another_targets_format_is_refused():
    facts = SimpleNamespace(source_format="onnx")
    model = SimpleNamespace(facts=facts, source=SimpleNamespace(origin="m.onnx"))
    target = load_target("litert")
    with pytest.raises(
        CompileError, match=r"m\.onnx: target litert takes torch, tflite, keras mod"
    ):
        planning._check_format(model, compiler_of(target), target)


@pytest.mark.parametrize(
    ("low", "value", "high", "outcome"),
    [
        (80e6, 90e6, 100e6, "fits"),
        (80e6, 90e6, 101e6, "may not fit"),
        (99e6, 110e6, 130e6, "may not fit"),
        (101e6, 110e6, 130e6, "does not fit"),
    ],
)
def test_fit_holds_the_whole_interval_of_an_estimate_against_the_limit(
    monkeypatch, low, value, high, outcome
):
    # The phone's limit on artifact_bytes is 100 MB.
    estimate = Figure(
        name="artifact_bytes",
        value=value,
        unit="bytes",
        provenance=Provenance.ESTIMATED,
        place=Place.NOWHERE,
        how="",
        low=low,
        high=high,
    )
    monkeypatch.setattr(planning, "estimate_figures", lambda *_, **__: (estimate,))
    (line,) = [line for line in edgekit.fit(workload()) if line.device == "phone"]
    assert line.outcome == outcome
    if outcome == "may not fit":
        told = f"artifact_bytes may be {low / 1e6:.0f} MB to {high / 1e6:.0f} MB (estimated)"
        assert line.reason == f"{told}, at most 100 MB"


def test_fit_is_certain_of_a_miss_where_another_estimate_is_not():
    limits = [
        Limit(figure=name, sense=Sense.AT_MOST, bound=100, unit="", accepts=())
        for name in ("one", "two", "three")
    ]
    figures = [
        SimpleNamespace(name="one", value=120, low=90, high=150),
        SimpleNamespace(name="two", value=200, low=150, high=250),
    ]
    outside, unsure = planning._held_against(limits, figures)
    assert outside == ["two is about 200 (estimated), at most 100"]
    assert unsure == ["one may be 90 to 150 (estimated), at most 100"]
