"""Module steps within a build: counted, judged, cached, and refused where they did nothing."""

import copy
import json
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn

from edgekit.compress.bench import StepResult
from edgekit.core.errors import StepError, WorkloadError
from edgekit.core.strategy import ActsOn, StepSpec
from edgekit.flow import planning
from edgekit.flow.stages import REUSED
from tests.flow import tiny

TRAIN = "train"
PROFILE = """schema = 1
name = "{name}"
title = "A phone for tests"
extends = "phone"
{steps}
[[strategy.step]]
name = "quantize"
required = true
reason = "small"
settings = {{ precision = "{precision}" }}
"""
STEP = """
[[strategy.step]]
name = "{name}"
required = true
reason = "to test"
settings = {settings}
"""


def profile(folder, *steps, precision="int8"):
    """A profile file whose strategy is these (name, settings) and quantization."""
    text = "".join(STEP.format(name=name, settings=settings) for name, settings in steps)
    path = folder / "tested.toml"
    path.write_text(PROFILE.format(name="tested", steps=text, precision=precision))
    return str(path)


def build(builds, device, given, **options):
    return builds.build(device, given, **{"effort": "standard", **options})


def workload(**changes):
    return tiny.workload(**{"training": tiny.samples(300, 7), **changes})


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """Settings of a step made for these tests."""

    factor: float = 2.0


def scale(settings, bench, reporter):
    """Multiplies the weights of every linear layer."""
    for module in bench.model.modules():
        if isinstance(module, nn.Linear):
            with torch.no_grad():
                module.weight.mul_(settings.factor)
    return StepResult(model=bench.model)


def other_outputs(settings, bench, reporter):
    """Takes one of the four classes away."""
    bench.model.network.scores = nn.Linear(16, 3)
    return StepResult(model=bench.model)


@pytest.fixture
def plugged(monkeypatch):
    """Two steps beside the installed ones, as a plug-in would bring them."""
    known = planning._steps()
    own = {
        name: StepSpec(
            name=name,
            acts_on=ActsOn.MODULE,
            handler=f"{__name__}:{name}",
            settings=f"{__name__}:Scale",
            summary="for tests",
        )
        for name in ("scale", "other_outputs")
    }
    monkeypatch.setattr(planning, "_steps", lambda: {**known, **own})


class Heard(list):
    def __call__(self, event):
        self.append(event)

    def notes(self, stage):
        return [event.message for event in self if event.stage == stage and event.kind == "note"]


@pytest.mark.slow
def test_every_step_is_counted_and_judged_in_order(builds, tmp_path, plugged):
    device = profile(tmp_path, ("scale", "{ factor = 3.0 }"), ("scale", "{ factor = 0.5 }"))
    result = build(builds, device, workload())
    names = [step.name for step in result.evidence.steps]
    assert names == ["float model", "scale", "scale 2", "export", "quantize"]
    figures = {item.name: item for item in result.evidence.steps[1].figures}
    parameters = sum(item.numel() for item in tiny.OnlyScores(tiny.network()).parameters())
    assert figures["parameters"].value == parameters
    # Scores times three have the same largest one.
    assert figures["metric_drop"].value == 0
    assert [item.name for item in result.manifest.steps] == names[1:]
    assert result.manifest.steps[0].macs == figures["macs"].value
    shipped = {item.name: item.value for item in result.evidence.figures}["artifact_bytes"]
    assert result.manifest.steps[-1].bytes == shipped
    # Storing weights in other bits changes no count, and every line of the table has them.
    for step, record in zip(result.evidence.steps[1:], result.manifest.steps, strict=True):
        counted = {item.name: item.value for item in step.figures}
        assert counted["parameters"] == record.parameters == parameters
        assert counted["macs"] == record.macs == figures["macs"].value
    assert len(result.manifest.lineage.training) == 64


@pytest.mark.slow
def test_effort_max_tries_rates_and_trains_three_times_as_long(builds, tmp_path):
    device = profile(tmp_path, ("train", "{ epochs = 1, learning_rate = 0.002 }"))
    heard = Heard()
    result = build(builds, device, workload(), effort="max", listener=heard)
    points = {point["name"]: point for point in result.steps[0].points}
    assert list(points) == [
        "train start",
        "trial, as stated",
        "trial, learning_rate 0.0006",
        "trial, learning_rate 0.006",
        *(f"train epoch {number}" for number in (1, 2, 3)),
    ]
    scores = [point["score"] for name, point in points.items() if name.startswith("trial")]
    told = next(note for note in heard.notes("train") if note.startswith("3 trials"))
    rates = ("as stated", "learning_rate 0.0006", "learning_rate 0.006")
    # Of equal ones the earlier.
    assert told.endswith(f"taken: {rates[scores.index(max(scores))]}")
    assert result.manifest.effort == "max"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("sparsify", "{ sparsity_ratio = 0.4 }"),
        ("prune", "{ ratio = 0.3, recover = { epochs = 0 } }"),
    ],
)
def test_a_step_that_trains_nothing_needs_no_targets_to_choose_on(builds, tmp_path, name, settings):
    given, heard = tiny.workload(), Heard()
    assert given.training is None
    assert given.selection is None
    device = profile(tmp_path, (name, settings))
    wide = {"metric_drop": 100.0}
    result = build(builds, device, given, effort="quick", listener=heard, limits=wide)
    assert any(note.startswith("judged by the cosine") for note in heard.notes(name))
    first = result.steps[0].points[0]["score"]
    assert first == pytest.approx(1.0, abs=1e-6)
    assert all(point["score"] <= first + 1e-6 for point in result.steps[0].points)
    # Told by the workload's own metric, on the evaluation data.
    drop = {item.name: item for item in result.evidence.steps[1].figures}["metric_drop"]
    assert drop.unit == "points"
    limited = f"{settings.removesuffix(' }')}, is_within_limit = true }}"
    with pytest.raises(StepError, match="no selection data with targets"):
        build(builds, profile(tmp_path, (name, limited)), given, effort="quick")


@pytest.mark.slow
def test_a_build_that_changes_the_last_step_reuses_the_others(builds, tmp_path, plugged):
    given = workload(training=tiny.samples(300, 8))
    steps = (("train", "{ epochs = 1, learning_rate = 0.002 }"), ("scale", "{ factor = 4.0 }"))
    build(builds, profile(tmp_path, *steps), given)
    heard = Heard()
    build(builds, profile(tmp_path, *steps, precision="fp16"), given, listener=heard)
    assert heard.notes("train")[-1] == REUSED
    assert REUSED in heard.notes("scale")
    assert REUSED not in heard.notes("quantize")


@pytest.mark.slow
def test_another_loss_of_the_users_trains_anew(builds, tmp_path):
    device = profile(tmp_path, ("train", "{ epochs = 1 }"))
    heard = Heard()
    for smoothing in (0.0, 0.3):
        loss = nn.CrossEntropyLoss(label_smoothing=smoothing)
        build(builds, device, workload(loss=loss), listener=heard)
    assert REUSED not in heard.notes("train")
    build(builds, device, workload(loss=nn.CrossEntropyLoss(label_smoothing=0.3)), listener=heard)
    assert REUSED in heard.notes("train")


@pytest.mark.slow
def test_the_metric_after_a_step_is_that_of_the_model_in_torch(builds, tmp_path, plugged):
    device = profile(tmp_path, ("scale", "{ factor = -1.0 }"))
    result = build(builds, device, workload(), allow=("metric_drop",))
    images, labels = tiny.pictures(800, 2)
    negated = copy.deepcopy(tiny.network())
    with torch.no_grad():
        before = negated(torch.from_numpy(images))[0].numpy().argmax(1)
        negated.scores.weight.neg_()
        after = negated(torch.from_numpy(images))[0].numpy().argmax(1)
    float_model, step = result.evidence.steps[:2]
    base = {item.name: item for item in float_model.figures}["metric_float"]
    found = {item.name: item for item in step.figures}["metric_compressed"]
    assert base.value == pytest.approx(100 * np.mean(before == labels), abs=1e-6)
    assert found.value == pytest.approx(100 * np.mean(after == labels), abs=1e-6)
    assert found.value < base.value - 10


def test_a_step_that_changes_nothing_is_an_error(builds, tmp_path, plugged):
    device = profile(tmp_path, ("scale", "{ factor = 1.0 }"))
    with pytest.raises(StepError, match="step 'scale' changed nothing"):
        build(builds, device, workload())


def test_a_training_that_makes_nothing_better_says_so_when_it_changed_nothing(builds, tmp_path):
    # A rate of 5 wrecks the trained network in its first epoch, so its own weights are kept.
    device = profile(tmp_path, ("train", "{ epochs = 1, learning_rate = 5.0, warmup_ratio = 0.0 }"))
    with pytest.raises(
        StepError, match=r"none of its 1 epochs, rounds or trials was better .*; lower its"
    ):
        build(builds, device, workload())


def test_other_outputs_than_the_teachers_are_refused(builds, tmp_path, plugged):
    device = profile(tmp_path, ("other_outputs", "{}"))
    with pytest.raises(StepError, match=r"outputs were scores float32 .*4.* and are now .*3"):
        build(builds, device, workload())


def test_training_on_the_evaluation_data_is_refused(builds, tmp_path):
    device = profile(tmp_path, ("train", "{ epochs = 1 }"))
    leaked = [*tiny.samples(100, 9), tiny.samples(800, 2)[5]]
    with pytest.raises(WorkloadError, match="evaluation and training data share 1 of"):
        build(builds, device, workload(training=leaked))


def test_a_required_step_that_trains_needs_training_data(builds, tmp_path):
    device = profile(tmp_path, ("train", "{ epochs = 1 }"))
    with pytest.raises(StepError, match=r"step 'train' is required, but .* no training data"):
        build(builds, device, tiny.workload())


def test_an_exported_program_cannot_be_taken_apart(builds, tmp_path, plugged):
    program = torch.export.export(
        tiny.OnlyScores(tiny.network()).eval(), (torch.zeros(1, *tiny.SHAPE),)
    )
    device = profile(tmp_path, ("scale", "{}"))
    with pytest.raises(StepError, match="exported graph, and this step needs the torch"):
        build(builds, device, workload(model=program))


@pytest.mark.slow
def test_the_report_keeps_every_point_on_the_way(builds, tmp_path):
    device = profile(tmp_path, ("train", "{ epochs = 2, learning_rate = 0.0001 }"))
    result = build(builds, device, workload())
    plain = json.loads((result.report / "report.json").read_bytes())
    (step,) = plain["steps"]
    assert step["name"] == "train"
    # The start and two epochs; one of them is what the step gave back.
    assert len(step["points"]) == 3
    assert [point["is_kept"] for point in step["points"]].count(True) == 1
    assert step["values"]["epochs"] == 2
