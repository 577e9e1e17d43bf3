"""Slips of the pen are found by the plan, before anything is trained."""

import pytest
from torch import nn

import edgekit
from edgekit.core.errors import StepError
from edgekit.core.planned import PlannedStep
from edgekit.flow.early_checks import check_names
from tests.flow import tiny
from tests.flow.test_compressing import profile


def step(name, **settings):
    return PlannedStep(name=name, is_run=True, reason="", settings=settings)


def test_a_late_step_s_pattern_that_matches_nothing_is_an_error_of_the_plan(tmp_path):
    late = ("sparsify", "{ ignore = ['secnd'] }")
    device = profile(tmp_path, ("train", "{ epochs = 5 }"), late)
    given = tiny.workload(training=tiny.samples(300, 7))
    with pytest.raises(StepError, match=r"sparsify: ignore: 'secnd' matches no layer.*second'"):
        edgekit.plan(given, device=device, effort="standard")


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (step("prune", ignore=("zero",)), "prune: ignore: 'zero' matches no layer"),
        (step("prune", layer_ratios={"zero": 0.5}), "prune: layer_ratios: 'zero' matches no"),
        (step("lora", targets=("zero",)), "lora: targets: 'zero' matches no layer"),
        (step("lora", adapter="/nowhere"), "lora: adapter '/nowhere' is not there"),
    ],
)
def test_each_kind_of_name(wrong, said):
    model = nn.Sequential(nn.Linear(2, 2))
    with pytest.raises(StepError, match=said):
        check_names(model, (step("train"), wrong))
    # Behind a student there may be other layers.
    check_names(model, (step("distil"), wrong))
    check_names(model, (step("prune", drop_layers=1), wrong))


def test_the_last_step_s_overrides_are_looked_at_too():
    model = nn.Sequential(nn.Linear(2, 2))
    for pattern in ("0", r"0\.weight"):
        overrides = ({"pattern": pattern, "precision": "float"},)
        check_names(model, (step("train"), step("quantize", overrides=overrides)))
    wrong = step("quantize", overrides=({"pattern": "head", "precision": "float"},))
    with pytest.raises(StepError, match="quantize: overrides: 'head' matches no layer; the"):
        check_names(model, (step("train"), wrong))
    check_names(model, (step("distil"), wrong))
    with pytest.raises(StepError, match="is no regular expression"):
        check_names(model, (step("quantize", overrides=({"pattern": "("},)),))


def test_patterns_that_leave_nothing_to_store_are_an_error_of_the_plan(tmp_path):
    device = profile(tmp_path)
    some, others = {"first|second": "float"}, {"third|scores|other": "float"}
    edgekit.plan(tiny.workload(), device=device, layers=some)
    for layers in ({"": "float"}, {**some, **others}):
        with pytest.raises(StepError, match=r"every layer with weights stays in float, .* int8"):
            edgekit.plan(tiny.workload(), device=device, layers=layers)
    # Of several patterns the last one counts.
    edgekit.plan(tiny.workload(), device=device, layers={"": "float", "second": "int8"})


def test_what_is_there_passes():
    model = nn.Sequential(nn.Linear(2, 2))
    check_names(model, (step("prune", ignore=("^0$",)), step("factorize", ignore=())))
