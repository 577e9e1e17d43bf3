"""Two bundles figure by figure."""

from dataclasses import replace

import pytest

from edgekit.bundle.manifest import Evidence, Lineage, StageRecord
from edgekit.core.contract import Output
from edgekit.core.errors import BundleError, InputError
from edgekit.core.figure import Figure, Place, Provenance, exact, not_evaluated
from edgekit.core.verdict import EvidenceKind, Limit, Sense
from edgekit.flow.compare import Side, Tolerance, compare, compare_sides, first_unstable_stage
from tests.bundle import samples


def measured(name: str, value: float, spread: float = 0.0, unit: str = "ms") -> Figure:
    """A figure sampled here, its interval ``value`` plus and minus ``spread``."""
    return Figure(
        name=name,
        value=value,
        unit=unit,
        provenance=Provenance.MEASURED,
        place=Place.HOST,
        how="by hand",
        low=value - spread,
        high=value + spread,
    )


def side(*figures: Figure, host: str = "test", **changes: object) -> Side:
    """A bundle with these figures."""
    manifest = samples.manifest(**changes)
    evidence = samples.evidence(manifest, manifest.bundle_id)
    evidence = replace(evidence, figures=figures, host=replace(evidence.host, processor=host))
    return Side(manifest=manifest, evidence=evidence)


def line(a: Figure | None, b: Figure | None, percent: float = 5.0, **changes: object):
    """The only line of a comparison."""
    sides = [side(*(() if item is None else (item,)), **changes) for item in (a, b)]
    [found] = compare_sides(*sides, Tolerance(percent=percent)).lines
    return found


def test_more_bytes_than_tolerated_is_a_regression():
    a = exact("artifact_bytes", 1000, "bytes", "")
    assert not line(a, replace(a, value=1050, low=1050, high=1050)).is_regression
    found = line(a, replace(a, value=1051, low=1051, high=1051))
    assert found.is_regression
    assert found.change == pytest.approx(0.051)


def test_fewer_bytes_are_better_and_never_a_regression():
    found = line(
        exact("artifact_bytes", 1000, "bytes", ""), exact("artifact_bytes", 1, "bytes", "")
    )
    assert (found.is_regression, found.note) == (False, "better")
    assert found.change == pytest.approx(-0.999)


def test_intervals_that_overlap_are_not_a_regression_and_say_so():
    found = line(measured("latency_ratio", 10, 1), measured("latency_ratio", 12, 1))
    assert not found.is_regression
    assert "intervals overlap" in found.note
    assert found.change == pytest.approx(0.2)


def test_intervals_that_lie_apart_are_a_regression():
    assert line(
        measured("latency_ratio", 10, 0.4), measured("latency_ratio", 12, 0.4)
    ).is_regression


def on_board(figure: Figure) -> Figure:
    """The figure as a device gave it."""
    return replace(figure, place=Place.DEVICE)


def test_milliseconds_of_a_host_are_told_and_those_of_a_device_are_judged():
    a, b = measured("latency_ms", 10, 0.1), measured("latency_ms", 20, 0.1)
    found = line(a, b)
    assert not found.is_regression
    assert found.change == pytest.approx(1.0)
    assert "not judged unless by --tolerance latency_ms=PERCENT" in found.note
    assert line(on_board(a), on_board(b)).is_regression


def test_a_tolerance_of_its_own_makes_any_figure_count():
    a, b = side(measured("latency_ms", 10, 0.1)), side(measured("latency_ms", 20, 0.1))
    assert compare_sides(a, b, Tolerance(by_name={"latency_ms": 50})).has_regressed
    assert not compare_sides(a, b, Tolerance(by_name={"latency_ms": 150})).has_regressed


@pytest.mark.parametrize("name", ["artifact_float_bytes", "latency_float_ms", "export_max_error"])
def test_what_says_nothing_of_the_artifact_is_not_judged(name):
    unit = "bytes" if name.endswith("bytes") else "ms"
    assert not line(measured(name, 10, unit=unit), measured(name, 20, unit=unit)).is_regression


def test_an_exact_figure_is_not_excused_by_touching_itself():
    a = exact("artifact_bytes", 0, "bytes", "")
    assert line(a, exact("artifact_bytes", 1, "bytes", "")).is_regression
    assert line(a, a).note == "same"


@pytest.mark.parametrize(
    ("metric", "name", "is_regression"),
    [
        ("top-1", "metric_compressed", True),
        ("top-1:digit", "metric_float", True),
        ("nll", "metric_compressed", False),
        ("mae", "metric_float", False),
        ("top-1", "metric_drop", False),
        ("top-1", "export_cosine", False),
        ("top-1", "export_max_error", False),
    ],
)
def test_half_of_a_figure_is_worse_where_more_is_better(metric, name, is_regression):
    found = line(exact(name, 90, "", ""), exact(name, 45, "", ""), metric=metric)
    assert found.is_regression is is_regression


def test_similarity_is_better_when_more():
    found = line(exact("export_cosine", 0.8, "", ""), exact("export_cosine", 0.4, "", ""))
    assert found.change == pytest.approx(0.5)


def test_a_limits_sense_decides_over_the_name():
    floor = Limit(
        figure="frames_per_second",
        sense=Sense.AT_LEAST,
        bound=1.0,
        unit="",
        accepts=(EvidenceKind.HOST,),
    )
    a, b = exact("frames_per_second", 30, "", ""), exact("frames_per_second", 20, "", "")
    assert line(a, b, limits=(floor,)).is_regression
    assert not line(a, b).is_regression


def _own_metric(reference: float, candidate: float, drop: float) -> tuple[Figure, ...]:
    return (
        exact("metric_float", reference, "", ""),
        exact("metric_compressed", candidate, "", ""),
        exact("metric_drop", drop, "points", ""),
    )


@pytest.mark.parametrize(("drop", "is_regression"), [(5.0, True), (-5.0, False)])
def test_a_metric_of_the_users_shows_its_direction_by_its_drop(drop, is_regression):
    a = side(*_own_metric(0.9, 0.8, drop), metric="dice")
    b = side(*_own_metric(0.9, 0.4, drop), metric="dice")
    lines = {item.name: item for item in compare_sides(a, b, Tolerance()).lines}
    assert lines["metric_compressed"].is_regression is is_regression


@pytest.mark.parametrize("figures", [_own_metric(0.9, 0.9, 0.0), _own_metric(0.9, 0.4, 9.0)[:2]])
def test_a_metric_of_unknown_direction_is_left_to_its_drop(figures):
    a, b = side(*figures, metric="dice"), side(*figures, metric="dice")
    found = compare_sides(a, b, Tolerance()).lines[0]
    assert not found.is_regression
    assert "metric_drop judges it" in found.note


def test_a_figure_that_was_lost_is_a_regression():
    a = on_board(measured("latency_ms", 10))
    assert line(a, None).is_regression
    assert line(a, not_evaluated("latency_ms", "ms", "no device")).is_regression
    assert not line(None, a).is_regression
    assert not line(not_evaluated("latency_ms", "ms", "no device"), a).is_regression
    assert not line(measured("export_max_error", 1), None).is_regression


def test_other_units_are_not_compared():
    found = line(measured("load_ms", 1), measured("load_ms", 1, unit="s"))
    assert found.is_regression
    assert "ms in A, s in B" in found.note


def test_evidence_of_another_kind_is_said():
    b = replace(measured("ram_bytes", 10), place=Place.EMULATOR)
    assert (
        "measured on host in A, measured on emulator in B"
        in line(measured("ram_bytes", 10), b).note
    )


def test_tolerance_by_name_replaces_the_general_one():
    a = side(exact("artifact_bytes", 100, "bytes", ""), exact("load_ms", 100, "ms", ""))
    b = side(exact("artifact_bytes", 108, "bytes", ""), exact("load_ms", 108, "ms", ""))
    found = compare_sides(a, b, Tolerance(percent=5, by_name={"load_ms": 10}))
    assert [item.is_regression for item in found.lines] == [True, False]
    assert found.has_regressed


def test_tolerance_of_an_unknown_figure_is_refused():
    with pytest.raises(InputError, match="did you mean 'load_ms'"):
        compare_sides(side(measured("load_ms", 1)), side(), Tolerance(by_name={"loadms": 1}))


def test_differences_name_what_changed():
    output = replace(
        samples.contract().outputs[0], meaning=Output(labels=("no", "yes"), activation="softmax")
    )
    component = samples.manifest().components[0]
    contract = replace(component.contract, outputs=(output,))
    b = side(
        host="another",
        seed=7,
        waived=("latency_ratio",),
        versions={"edgekit": "0.2.0", "onnx": "1.0"},
        components=(replace(component, contract=contract),),
        lineage=replace(samples.manifest().lineage, model="9" * 64),
    )
    text = "\n".join(compare_sides(side(), b, Tolerance()).differences)
    assert "measured on different machines" in text
    assert "seed: 0 in A, 7 in B" in text
    assert "waived: nothing in A, latency_ratio in B" in text
    assert "versions.edgekit: 0.1.0 in A, 0.2.0 in B" in text
    assert "versions.onnx: nothing in A, 1.0 in B" in text
    assert "lineage.model: aaaaaaaaaaaa in A, 999999999999 in B" in text
    assert "contract.main.y.meaning.activation: none in A, softmax in B" in text
    assert "not deterministic" not in text


def test_bundles_of_other_tasks_say_that_their_scores_do_not_compare():
    lineage = replace(samples.manifest().lineage, evaluation="9" * 64)
    for other in (side(lineage=lineage), side(metric="mae")):
        (told,) = [
            text
            for text in compare_sides(side(), other, Tolerance()).differences
            if "do not compare" in text
        ]
        assert told.startswith("judged by another metric or on other data")
    component = samples.manifest().components[0]
    inputs = (replace(component.contract.inputs[0], name="z"),)
    contract = replace(component.contract, inputs=inputs)
    other = side(components=(replace(component, contract=contract),))
    text = "\n".join(compare_sides(side(), other, Tolerance()).differences)
    assert "other inputs or outputs: what runs A does not run B as it is" in text


def test_steps_and_limits_that_changed_are_named():
    steps = samples.manifest().strategy.steps
    strategy = replace(
        samples.manifest().strategy, steps=(replace(steps[0], settings={"bits": 4}),)
    )
    limits = (replace(samples.LIMITS[0], bound=2000.0), samples.LIMITS[1])
    text = "\n".join(
        compare_sides(side(), side(strategy=strategy, limits=limits), Tolerance()).differences
    )
    assert "strategy.0.quantize.bits: 8 in A, 4 in B" in text
    assert "limits.artifact_bytes: at_most 1000 bytes in A, at_most 2000 bytes in B" in text


def test_the_same_bundle_is_said_to_be_the_same():
    found = compare_sides(side(), side(), Tolerance()).differences
    assert len(found) == 1
    assert "the same bundle" in found[0]


def _stages(*outputs: str, key: str = "k") -> tuple[StageRecord, ...]:
    names = ("export", "quantize", "strip")
    return tuple(
        StageRecord(name=name, key=f"{key}-{name}", output=output)
        for name, output in zip(names, outputs, strict=True)
    )


def test_the_first_stage_that_is_not_deterministic_is_named():
    assert first_unstable_stage(_stages("a", "b", "c"), _stages("a", "x", "y")) == "quantize"
    assert first_unstable_stage(_stages("a", "b", "c"), _stages("a", "b", "c")) is None


def test_other_inputs_excuse_another_output():
    assert first_unstable_stage(_stages("a", "b", "c"), _stages("x", "y", "z", key="q")) is None


def test_an_unstable_stage_is_among_the_differences():
    lineage: Lineage = samples.manifest().lineage
    other = replace(lineage, stages=(replace(lineage.stages[0], output="0" * 64),))
    found = compare_sides(side(), side(lineage=other), Tolerance()).differences
    assert "not deterministic: export (equal inputs, different output)" in found


def test_folders_and_zips_are_compared_alike(tmp_path):
    folder = samples.write(tmp_path / "a", samples.contents())
    zipped = tmp_path / "a.zip"
    from edgekit.bundle.seal import pack

    pack(folder, zipped)
    found = compare(folder, zipped)
    assert not found.has_regressed
    assert {item.note for item in found.lines} == {"same"}


def test_a_damaged_bundle_is_refused(tmp_path):
    files = samples.contents()
    folder = samples.write(tmp_path / "a", files)
    broken = samples.write(tmp_path / "b", {**files, "MODEL_CARD.md": b"# Another\n"})
    with pytest.raises(BundleError, match=r"MODEL_CARD\.md"):
        compare(folder, broken)


def test_a_side_knows_its_figures_by_name():
    found: Evidence = side(measured("load_ms", 1)).evidence
    assert found.figures[0].name == "load_ms"
