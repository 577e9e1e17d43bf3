"""What is advised where the metric dropped too far."""

import re
from types import SimpleNamespace

import pytest

from edgekit.cli.build_options import asked_options
from edgekit.cli.options import StepSetting
from edgekit.core.codec import from_plain, to_plain
from edgekit.core.errors import StepError
from edgekit.core.figure import exact
from edgekit.core.steps import Distil, Factorize, Lora, Prune, Rounding, Sparsify, Train
from edgekit.core.strategy import PlannedStep, Quantize, Strategy
from edgekit.flow.drop_advice import advise_on_drop, losses_of
from edgekit.plan.strategy import _merged

KINDS = {
    "prune": Prune,
    "sparsify": Sparsify,
    "distil": Distil,
    "factorize": Factorize,
    "lora": Lora,
    "train": Train,
}


def drop(value):
    return exact("metric_drop", value, "points", "")


def ran(name, after):
    return SimpleNamespace(name=name, figures=(exact("parameters", 7, "", ""), drop(after)))


def plan(*steps, skipped=(), precision="int8"):
    """A plan of these (name, settings) and quantization; skipped: (name, reason)."""
    planned = [
        PlannedStep(name=name, is_run=True, reason="", settings=to_plain(settings))
        for name, settings in steps
    ]
    left_out = [PlannedStep(name=name, is_run=False, reason=reason) for name, reason in skipped]
    return SimpleNamespace(
        quantize=Quantize(precision=precision, activations="none"),
        strategy=Strategy(steps=(*planned, *left_out)),
    )


def test_each_step_lost_what_the_drop_grew_by():
    losses = losses_of(drop(5.0), [ran("prune", 4.0), ran("distil", 1.5)])
    assert [(item.step, item.lost) for item in losses] == [
        ("prune", 4.0),
        ("distil", -2.5),
        ("quantize", 3.5),
    ]


def test_the_step_that_lost_most_is_named_with_milder_settings():
    given = plan(("prune", Prune(ratio=0.8, recover=Train(epochs=12))))
    lines = list(advise_on_drop(given, drop(5.0), [ran("prune", 4.0)]))
    assert lines[0] == "metric_drop: most is lost by 'prune': 4 points of 5 points"
    assert "--set prune.ratio=0.6, now 0.8" in lines[1]
    assert "--set prune.recover.epochs=24, now 12" in lines[1]
    assert "--set prune.is_within_limit=true" in lines[1]


def test_what_was_won_back_later_is_no_share_of_the_whole():
    given = plan(("prune", Prune()), ("distil", Distil()))
    lines = list(advise_on_drop(given, drop(5.0), [ran("prune", 9.0), ran("distil", 4.0)]))
    assert lines[0].endswith("most is lost by 'prune': 9 points, 5 points after all steps")


def test_a_second_step_of_a_name_is_answered_like_the_first():
    given = plan(("prune", Prune()), ("prune", Prune()))
    lines = list(advise_on_drop(given, drop(5.0), [ran("prune", 1.0), ran("prune 2", 5.0)]))
    assert "'prune 2': 4 points of 5 points" in lines[0]
    assert "--set prune.ratio=" in lines[1]


def test_where_the_bits_lost_most_the_precision_is_the_answer():
    given = plan(("distil", Distil()), precision="int4")
    lines = list(advise_on_drop(given, drop(5.0), [ran("distil", 1.0)]))
    assert "most is lost by 'quantize': 4 points of 5 points" in lines[0]
    assert "use int8" in lines[1]


def test_without_steps_on_the_module_nothing_is_compared():
    (line,) = advise_on_drop(plan(precision="fp16"), drop(5.0), [])
    assert "65504" in line


SKIPPED = ("distil", "the workload has no training data (the float model teaches it)")


def test_a_skipped_distillation_is_named_where_an_earlier_step_shrank_the_model():
    given = plan(("prune", Prune(recover=Train(epochs=0))), skipped=[SKIPPED])
    *_, line = advise_on_drop(given, drop(5.0), [ran("prune", 4.0)])
    assert line == (
        "metric_drop: 'distil' was skipped (the workload has no training data) and may win some "
        "back: it runs with training data and --effort standard"
    )


def test_a_skipped_distillation_that_would_shrink_the_model_is_no_remedy():
    lines = list(advise_on_drop(plan(skipped=[SKIPPED]), drop(5.0), []))
    assert not any("distil" in line for line in lines)


def test_a_skipped_training_is_named():
    *_, line = advise_on_drop(plan(skipped=[("train", "effort quick trains nothing")]), drop(5), [])
    assert "'train' was skipped (effort quick trains nothing)" in line


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        *((name, kind()) for name, kind in KINDS.items() if name != "sparsify"),
        ("sparsify", Sparsify(sparsity_ratio=0.9)),
        ("sparsify", Sparsify(pattern="2:4")),
        ("prune", Prune(keep=1000.0, recover=Train(epochs=0))),
        ("prune", Prune(units=("layers",), drop_layers=2)),
        ("factorize", Factorize(ranks="search")),
        ("factorize", Factorize(ranks="ratio", recover=Train(epochs=3))),
        ("distil", Distil(student="current")),
    ],
)
def test_every_setting_that_is_advised_can_be_set(name, settings):
    lines = list(advise_on_drop(plan((name, settings)), drop(5.0), [ran(name, 4.0)]))
    asked = re.findall(r"--set (\S+?)[,)]", " ".join(lines))
    assert asked
    typed = [StepSetting().convert(text, None, None) for text in asked]
    for setting in typed:
        options = asked_options(layers=(), settings=[setting], device="phone")
        merged = _merged(to_plain(settings), options.settings[name])
        changed = from_plain(KINDS[name], merged, where=name, error=StepError)
        assert changed != settings


def test_a_share_of_the_layers_is_made_milder_and_a_ratio_that_counts_for_nothing_is_not_named():
    layers = Prune(units=("layers",), depth_ratio=0.5)
    lines = list(advise_on_drop(plan(("prune", layers)), drop(5.0), [ran("prune", 4.0)]))
    assert "--set prune.depth_ratio=0.38, now 0.5" in lines[1]
    assert "prune.ratio" not in lines[1]
    both = Prune(units=("channels", "layers"), depth_ratio=0.5, ratio=0.4)
    lines = list(advise_on_drop(plan(("prune", both)), drop(5.0), [ran("prune", 4.0)]))
    assert "--set prune.depth_ratio=0.38" in lines[1]
    assert "--set prune.ratio=0.3" in lines[1]


@pytest.mark.parametrize("amount", ["student_bytes", "student_macs"])
def test_a_student_of_a_stated_size_is_made_larger_by_that_size(amount):
    given = plan(("distil", Distil(**{amount: 20_000})))
    lines = list(advise_on_drop(given, drop(5.0), [ran("distil", 4.0)]))
    assert f"--set distil.{amount}=30000, now 20000" in lines[1]
    assert "student_ratio" not in lines[1]


def rounded(name, rounding):
    train = Train(rounding=rounding)
    return plan((name, train if name == "train" else Distil(train=train)), precision="int4")


@pytest.mark.parametrize(
    ("name", "path"), [("distil", "distil.train.rounding"), ("train", "train.rounding")]
)
@pytest.mark.parametrize("rounding", [None, Rounding(precision="none")])
def test_training_with_rounded_weights_is_advised_where_rounding_lost_most(name, path, rounding):
    lines = list(advise_on_drop(rounded(name, rounding), drop(5.0), [ran(name, 1.0)]))
    assert f"train with rounded weights (--set {path}.precision=auto), or use int8" in lines[1]


def test_training_that_saw_rounded_weights_is_not_advised_again():
    given = rounded("distil", Rounding(precision="int4"))
    assert "rounded" not in "".join(advise_on_drop(given, drop(5.0), [ran("distil", 1.0)]))
