"""The tables: what a figure, a verdict, a profile and a target look like."""

import io
from dataclasses import replace

import pytest
from rich.console import Console

from edgekit.core.codec import to_plain
from edgekit.core.figure import Figure, Place, Provenance, exact, not_evaluated
from edgekit.core.profile import DeviceProfile, Fact, Hardware
from edgekit.core.strategy import PlannedStep, Quantize, Step, Strategy
from edgekit.core.target import RuntimeLibrary, Target, Toolchain
from edgekit.core.verdict import (
    EvidenceKind,
    Limit,
    Sense,
    Standing,
    Verdict,
    deliver_verdict,
)
from edgekit.report.catalog import device_detail, devices_table, target_detail, targets_table
from edgekit.report.figures import figure_evidence, figure_table, figure_value
from edgekit.report.strategy import settings_text, skipped_steps, strategy_table
from edgekit.report.verdict import bound_text, standing_line


def shown(renderable: object, width: int = 80) -> str:
    """What a console of that width shows, with its wrapping taken out."""
    stream = io.StringIO()
    Console(file=stream, width=width, markup=False).print(renderable)
    return " ".join(stream.getvalue().split())


def sampled(value: float, low: float, high: float, unit: str) -> Figure:
    """A measured figure with an interval."""
    return Figure(
        name="x",
        value=value,
        unit=unit,
        provenance=Provenance.MEASURED,
        place=Place.HOST,
        how="by hand",
        low=low,
        high=high,
        confidence=0.95,
        samples=100,
    )


@pytest.mark.parametrize(
    ("figure", "text"),
    [
        (exact("x", 68_432, "bytes", ""), "68.4 kB"),
        (sampled(0.41, 0.4, 0.43, "ratio"), "0.41 x [0.4,0.43]"),
        (sampled(900, 800, 1100, "bytes"), "900 B [800B,1.1kB]"),
        (sampled(1, 0.5, 1.5, "points"), "1 point [0.5,1.5]"),
        (not_evaluated("x", "bytes", "no board"), "-"),
    ],
)
def test_a_figure_shows_its_interval_and_unit(figure, text):
    assert figure_value(figure) == text


def test_a_figure_never_stands_without_its_provenance():
    assert figure_evidence(sampled(1, 1, 1, "ms")) == "measured, host"
    assert figure_evidence(not_evaluated("x", "ms", "")) == "not evaluated"
    text = shown(figure_table([sampled(1, 0.5, 1.5, "ms")], title="Figures"))
    assert "by hand; 95% interval, 100 samples" in text


@pytest.mark.parametrize(
    ("sense", "text"), [(Sense.AT_MOST, "at most 4 ms"), (Sense.AT_LEAST, "at least 4 ms")]
)
def test_a_bound_says_its_side(sense, text):
    limit = Limit(
        figure="x", sense=sense, bound=4.0, unit="ms", accepts=(EvidenceKind.HOST,), source=""
    )
    assert bound_text(limit) == text


def test_a_verdict_on_nothing_says_why_it_is_refused():
    line = standing_line(Verdict(standing=Standing.REFUSED, judgements=()))
    assert line.plain == "REFUSED: the profile sets no limit, and nothing proves nothing"


def test_a_limit_that_missed_is_counted_and_named():
    limits = tuple(
        Limit(figure=name, sense=Sense.AT_MOST, bound=1.0, unit="ms", accepts=(EvidenceKind.HOST,))
        for name in ("a_ms", "b_ms")
    )
    figures = {name: exact(name, 2, "ms", "") for name in ("a_ms", "b_ms")}
    line = standing_line(deliver_verdict(limits, figures)).plain
    assert line == "REFUSED: 2 limits missed: a_ms, b_ms; 0 of 2 limits hold"


def test_settings_leave_out_what_is_empty():
    settings = {"precision": "int8", "is_unsigned": True, "strict": False, "overrides": ()}
    assert settings_text(settings) == "precision int8, is_unsigned yes, strict no"
    assert settings_text({"a": {"b": [1, "x"]}}) == "a {b [1, x]}"


def test_no_skipped_steps_take_no_room():
    assert shown(skipped_steps(Strategy(steps=()))) == ""


def test_a_step_that_there_is_no_need_of_is_told_apart_from_a_skipped_one():
    steps = (
        PlannedStep(name="distil", is_run=False, reason="no data"),
        PlannedStep(name="smooth", is_run=False, is_unneeded=True, reason="a conv net"),
    )
    text = shown(skipped_steps(Strategy(steps=steps)))
    assert text.index("Skipped steps") < text.index("distil: no data") < text.index("No need of")
    assert text.index("No need of") < text.index("smooth: a conv net")
    text = shown(strategy_table(Strategy(steps=steps)))
    assert "distil SKIPPED - no data" in text
    assert "smooth no need - a conv net" in text


def test_what_hardly_anybody_sets_is_shown_where_somebody_did():
    usual = Quantize(precision="int8", activations="static")
    texts = [
        shown(strategy_table(Strategy(steps=(planned_quantize(item),))))
        for item in (usual, replace(usual, activation_bits=16))
    ]
    assert ["precision int8" in text for text in texts] == [True, True]
    assert ["activation_bits 16" in text for text in texts] == [False, True]
    assert not any("calibration" in text for text in texts)


def planned_quantize(settings: Quantize) -> PlannedStep:
    """The step as a plan has it."""
    return PlannedStep(name="quantize", is_run=True, reason="why", settings=to_plain(settings))


def profile(**changes: object) -> DeviceProfile:
    """A board with few facts."""
    plain = {
        "name": "board",
        "title": "A board",
        "family": "embedded",
        "hardware": Hardware(
            abi="none",
            architecture=Fact(value="armv7e-m", source="datasheet, page 1"),
            features=Fact(value=("dsp", "fp"), source="datasheet, page 2"),
            clock_hz=Fact(value=480_000_000, source="datasheet, page 3"),
            ram_bytes=Fact(value=262_144, source="datasheet, page 4"),
            accelerators=Fact(value=(), source="datasheet, page 5"),
            cores=Fact(value=1, source="datasheet, page 6"),
        ),
        "default_target": "litert",
        "limits": (),
        "steps": (
            Step(name="prune", when="training data", reason="less flash", settings={"ratio": 0.7}),
            Step(name="quantize", is_required=True),
        ),
    }
    return DeviceProfile(**plain | changes)


def test_a_device_shows_each_fact_with_its_source():
    text = shown(device_detail(profile()))
    assert "features dsp, fp datasheet, page 2" in text
    assert "clock_hz 480 MHz datasheet, page 3" in text
    assert "ram_bytes 262 kB datasheet, page 4" in text
    assert "accelerators none datasheet, page 5" in text
    assert "flash_bytes - not stated" in text


@pytest.mark.parametrize("source", ["not confirmed here: the page is gone", "Not confirmed"])
def test_a_device_marks_a_fact_that_nobody_read(source):
    hardware = replace(profile().hardware, cores=Fact(value=2, source=source))
    text = shown(device_detail(profile(hardware=hardware)))
    assert f"cores 2 (not confirmed) {source}" in text
    assert text.count("(not confirmed)") == 1


def test_a_device_shows_its_steps_with_conditions():
    text = shown(device_detail(profile()))
    assert "prune optional training data ratio 0.7 less flash" in text
    assert "quantize required always -" in text


def test_a_device_says_what_is_set_aside():
    assert "set aside nothing for the rest" not in shown(device_detail(profile()))
    text = shown(device_detail(profile(reserve_ram=65_536, reserve_flash=262_144)))
    assert "65.5 kB of RAM and 262 kB of flash for the rest of the app" in text


def test_a_generic_device_says_so_and_what_it_extends():
    text = shown(device_detail(profile(is_generic=True, extends=("a", "b"))))
    assert "embedded, generic" in text
    assert "extends a > b" in text


def test_the_list_of_devices_has_memory():
    assert "board A board embedded 262 kB / - litert" in shown(devices_table([profile()]))


def a_target(**changes):
    return Target(
        name="t",
        title="T",
        format="tflite",
        suffix=".tflite",
        compiler="litert",
        runtime="litert",
        runtime_package="ai-edge-litert",
        minimum_runtime_version="2.1.0",
        toolchain=Toolchain(requirements=()),
        **changes,
    )


def test_a_target_without_operators_says_so():
    assert "none listed" in shown(target_detail(a_target(), "missing"))
    assert "t T tflite missing" in shown(targets_table([(a_target(), "missing")]))


def test_a_target_shows_the_upper_bound_of_a_library_and_names_a_stand_in():
    exact_one = RuntimeLibrary(abi="a", bytes=5_000, version="1", sha256="0", source="a wheel")
    bounded = replace(exact_one, abi="b", at_most_bytes=9_000, at_most_source="another system's")
    stand_in = replace(exact_one, abi="c", is_stand_in=True)
    target = a_target(runtime_libraries=(exact_one, bounded, stand_in))
    text = shown(target_detail(target, "missing"), width=120)
    assert "a 5 kB - 1 a wheel" in text
    assert "b 5 kB 9 kB 1 a wheel; at most: another system's" in text
    assert "c 5 kB - 1 stand-in: a wheel" in text
