"""build, plan and fit: what they hand to flow, and what they print of its answers."""

import json

import pytest

import edgekit.flow.build as building
from edgekit.core.errors import BudgetError
from edgekit.core.progress import Reporter
from edgekit.core.strategy import Override
from edgekit.flow import planning
from edgekit.flow.results import BuildOptions
from edgekit.flow.sources import SourceOptions
from tests.cli import builders


@pytest.fixture
def answered(monkeypatch):
    """Flow's verbs, answering with results made by hand and keeping what they were asked."""
    asked = {}

    def answer(module, name, value):
        def verb(source, options=None, *, listener, source_options):
            asked.update(source=source, options=options, source_options=source_options)
            reporter = Reporter(stage="export", listener=listener)
            reporter.progress("exporting", 0.0)
            reporter.warn("a warning")
            print("noise of a library")
            if isinstance(value, Exception):
                raise value
            return value

        monkeypatch.setattr(module, name, verb)
        return asked

    return answer


def _flat(text: str) -> str:
    """Text with its wrapping taken out."""
    return " ".join(text.split())


def test_a_proven_build_prints_the_verdict_and_where_to_go(answered, command):
    answered(building, "build", builders.result(builders.proven()))
    found = command("build", "w.py", "--device", "phone")
    assert found.code == 0
    assert "PROVEN: 3 of 3 limits hold" in found.out
    assert "68.4 kB" in found.out
    assert "0.1056 points" in found.out
    assert "[-0.21,0.52]" in found.out
    assert "at most 100 MB" in _flat(found.out)
    assert "edgekit inspect out/digits-phone.edgekit" in found.out
    assert builders.result(builders.proven()).bundle_id in found.out


def test_everything_that_is_not_as_asked_is_said(answered, command):
    answered(building, "build", builders.result(builders.proven()))
    text = _flat(command("build", "w.py", "-d", "phone").out)
    assert "distil: there is no training data" in text
    assert "classifier stayed float32 and was asked to be int8" in text
    assert "INT4 convolutions are slower than float here" in text
    assert "data: 2 samples were cut" in text
    assert "1 of 2 stages were reused: export" in text
    assert "reused from the cache" not in text


def test_a_candidate_names_what_is_pending_and_what_was_waived(answered, command):
    answered(building, "build", builders.result(builders.candidate()))
    text = _flat(command("build", "w.py", "-d", "phone").out)
    assert "CANDIDATE: 1 limit pending: flash_bytes (needs emulator or device)" in text
    assert "1 limit waived by --allow: latency_ratio" in text


def test_a_refused_build_ends_with_3_and_says_what_to_try(answered, command):
    refused = builders.result(builders.refused(), bundle=None)
    answered(building, "build", BudgetError("phone: refused", result=refused))
    found = command("build", "w.py", "-d", "phone")
    assert found.code == 3
    text = _flat(found.out)
    assert "REFUSED: 1 limit missed: latency_ratio; 1 limit inconclusive: metric_drop" in text
    assert "missed by 0.4 x" in text
    assert "features.3 36.9 kB int8" in text
    assert "--layer '^features.0$=float'" in text
    assert "none was written" in text
    assert "error: phone: refused" in found.err


def test_a_refused_build_in_json_has_the_error_and_the_result(answered, command):
    refused = builders.result(builders.refused(), bundle=None)
    answered(building, "build", BudgetError("phone: refused", result=refused))
    found = command("build", "w.py", "-d", "phone", "--json")
    document = json.loads(found.out)
    assert found.code == document["error"]["exit_code"] == 3
    statuses = [item["status"] for item in document["result"]["verdict"]["judgements"]]
    assert statuses == ["pass", "inconclusive", "fail"]


def test_a_budget_error_without_a_result_is_an_error_like_others(answered, command):
    answered(building, "build", BudgetError("the estimate is far over"))
    found = command("build", "w.py", "-d", "phone")
    assert (found.code, found.out) == (3, "")
    assert "far over" in found.err


def test_json_of_a_build_is_the_result_alone(answered, command):
    answered(building, "build", builders.result(builders.proven()))
    found = command("build", "w.py", "-d", "phone", "--json")
    document = json.loads(found.out)
    assert document["bundle"] == "out/digits-phone.edgekit"
    assert document["verdict"]["standing"] == "proven"


def test_progress_warnings_and_noise_stay_off_stdout(answered, command):
    answered(building, "build", builders.result(builders.proven()))
    found = command("build", "w.py", "-d", "phone", "--json")
    json.loads(found.out)
    assert "export: exporting (0%)" in found.err
    assert "warning: export: a warning" in found.err
    assert "noise of a library" in found.err


def test_every_option_of_build_reaches_flow(answered, command, tmp_path):
    asked = answered(building, "build", builders.result(builders.proven()))
    command(
        *("build", "w.py:make", "-d", "phone", "-t", "onnx", "--out", tmp_path / "x"),
        *("--effort", "standard", "--seed", 7, "--force", "--refresh", "--strict", "--zip"),
        *("--allow", "metric_drop", "--allow", "metric_drop", "--require", "proven"),
        *("--limit", "artifact_bytes=500 kB", "--limit", "metric_drop=0.5 point"),
        *("--limit", "latency_ratio=0.9", "--layer", "a=b=int4"),
        *("--set", "quantize.activations=static", "--set", "quantize.block_size=32"),
        *("--data", "pictures", "--labels", "names.txt", "--arg", "weights=w.th"),
    )
    assert asked["source"] == "w.py:make"
    assert asked["source_options"] == SourceOptions(
        data=type(tmp_path)("pictures"),
        labels=type(tmp_path)("names.txt"),
        arguments={"weights": "w.th"},
    )
    assert asked["options"] == BuildOptions(
        device="phone",
        target="onnx",
        out=tmp_path / "x",
        effort="standard",
        seed=7,
        is_forced=True,
        is_refreshed=True,
        is_strict=True,
        is_packed=True,
        allow=("metric_drop",),
        require="proven",
        limits={"artifact_bytes": 500_000.0, "metric_drop": 0.5, "latency_ratio": 0.9},
        overrides=(Override(pattern="a=b", precision="int4", reason="asked for with --layer"),),
        settings={"quantize": {"activations": "static", "block_size": 32}},
    )


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--limit", "artifact_byte=5 kB", "did you mean 'artifact_bytes'"),
        ("--limit", "artifact_bytes=5 ms", "write a number and one of: B, kB"),
        ("--limit", "latency_ratio=fast", "not a number"),
        ("--limit", "artifact_bytes", "NAME=BOUND"),
        ("--limit", "=5", "NAME=BOUND"),
        ("--layer", "features=zzz", "allowed: "),
        ("--layer", "features=int-8", "did you mean 'int8'"),
        ("--layer", "features=nf3", "did you mean 'nf4'"),
        ("--layer", "(=int8", "no regular expression"),
        ("--set", "activations=static", "STEP.KEY=VALUE"),
        ("--set", "quantize.=1", "STEP.KEY=VALUE"),
        ("--effort", "huge", "quick"),
        ("--seed", "-1", "0"),
        ("--arg", "weights", "NAME=VALUE"),
    ],
)
def test_a_wrong_value_is_a_usage_error_that_says_what_is_allowed(option, value, said, command):
    found = command("build", "w.py", "-d", "phone", option, value)
    assert found.code == 2
    assert said in _flat(found.err)


def test_a_plan_shows_strategy_operators_and_estimates(answered, command):
    asked = answered(planning, "plan_build", builders.plan())
    found = command("plan", "w.py", "-d", "board", "--layer", "x=float")
    text = _flat(found.out)
    assert "precision int8" in text
    assert "SKIPPED" in text
    assert "aten.sort.default 3 UNSUPPORTED fallback" in text
    assert (
        "aten.sort.default on litert: unsupported; no kernel; at features.0, the model itself"
        in text
    )
    assert "61 kB estimated one byte a weight" in text
    assert asked["options"].overrides[0].pattern == "x"


def test_a_plan_in_json_holds_the_facts(answered, command):
    answered(planning, "plan_build", builders.plan())
    document = json.loads(command("plan", "w.py", "-d", "board", "--json").out)
    assert document["facts"]["macs"] == 1_787_904


def test_fit_shows_every_outcome_and_that_it_estimates(answered, command):
    answered(planning, "fit", builders.fits())
    text = _flat(command("fit", "w.py").out)
    assert "FITS" in text
    assert "DOES NOT FIT" in text
    assert "NOT SUPPORTED" in text
    assert "MAY NOT FIT" in text
    assert "1 of 4 fit, 1 may not, by estimates alone" in text


def test_fit_in_json_is_a_list(answered, command):
    answered(planning, "fit", builders.fits())
    document = json.loads(command("fit", "w.py", "--json").out)
    assert [item["outcome"] for item in document["fit"]] == [
        "fits",
        "does not fit",
        "not supported",
        "may not fit",
    ]


def test_no_line_is_wider_than_the_terminal(answered, command, monkeypatch):
    answered(building, "build", builders.result(builders.candidate()))
    for columns in (60, 80, 160):
        monkeypatch.setenv("COLUMNS", str(columns))
        found = command("build", "w.py", "-d", "phone")
        assert max(map(len, found.out.splitlines())) <= columns


def test_a_wide_terminal_has_reasons_in_the_table(answered, command, monkeypatch):
    answered(building, "build", builders.result(builders.proven()))
    monkeypatch.setenv("COLUMNS", "160")
    found = command("build", "w.py", "-d", "phone")
    assert "68.4 kB, at most 100 MB" in found.out
