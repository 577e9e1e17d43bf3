"""A plan says beforehand how long its training steps will take."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import edgekit
from edgekit.core.progress import ignore
from edgekit.core.strategy import PlannedStep, Strategy
from edgekit.flow import training_time
from edgekit.flow.planning import make_plan
from edgekit.flow.prepare import capture_model
from edgekit.flow.results import BuildOptions
from edgekit.flow.sources import resolve_source
from edgekit.flow.training_time import estimate_training
from tests.flow import tiny
from tests.flow.test_compressing import profile


@pytest.fixture
def captured(tmp_path):
    def capture(**changes):
        given = tiny.workload(**{"training": tiny.samples(300, 7), **changes})
        return capture_model(resolve_source(given, tmp_path), tmp_path, ignore)

    return capture


def planned(model, tmp_path, settings):
    device = profile(tmp_path, ("train", settings))
    return make_plan(model, BuildOptions(device=device, effort="standard"))


def test_the_estimate_goes_with_samples_and_epochs(captured, tmp_path, monkeypatch):
    model = captured()
    monkeypatch.setattr(training_time, "_seconds_a_sample", lambda _: 0.002)
    figure = estimate_training(model, planned(model, tmp_path, "{ epochs = 5 }"))
    assert figure.value == pytest.approx(300 * 5 * 0.002)
    assert figure.low < figure.value < figure.high
    assert figure.provenance == "estimated"


def test_unlabelled_samples_are_learned_from_and_labelled_once(captured, tmp_path, monkeypatch):
    monkeypatch.setattr(training_time, "_seconds_a_sample", lambda _: 0.002)
    images = [image for image, _ in tiny.samples(700, 8)]
    settings = "{ student = 'current', pseudo_label_weight = 0.5, train = { epochs = 5 } }"
    device = profile(tmp_path, ("distil", settings))

    options = BuildOptions(device=device, effort="max")
    model = captured()
    given = replace(model.workload, unlabelled=images)
    more = replace(model, source=replace(model.source, workload=given))
    alone, beside = (estimate_training(item, make_plan(item, options)) for item in (model, more))
    # 15 epochs (three times 5), and before them a trial of one epoch for each of three rates and
    # two shares of the labels, of the model with its teacher's forward pass beside it.
    assert alone.value == pytest.approx(300 * 20 * (4 / 3) * 0.002)
    assert beside.value == pytest.approx((1000 * 20 * 4 / 3 + 700 / 3) * 0.002, abs=0.05)
    assert "300 samples (and at most 700 without labels in 'distil')" in beside.how


def test_text_that_is_written_costs_a_look_of_the_teacher_for_each_token(tmp_path, monkeypatch):
    monkeypatch.setattr(training_time, "_seconds_a_sample", lambda _: 0.002)
    texts = [(np.arange(10) % 7 + start, np.arange(10) % 7) for start in range(5)]
    given = edgekit.Workload(
        name="counting",
        model=torch.nn.Sequential(torch.nn.Embedding(12, 8), torch.nn.Linear(8, 12)).eval(),
        inputs={"ids": edgekit.Tensor(shape=(10,), dtype="int64")},
        outputs={"logits": edgekit.Output()},
        calibration=[ids for ids, _ in texts],
        evaluation=texts,
        training=texts,
        selection=texts,
        metric="top-1",
    )
    model = capture_model(resolve_source(given, tmp_path), tmp_path, ignore)

    def seconds(samples):
        more = f"synthetic_samples = {samples}, train = {{ epochs = 5 }}"
        device = profile(
            tmp_path, ("distil", f"{{ student = 'current', task = 'language', {more} }}")
        )
        plan = make_plan(model, BuildOptions(device=device, effort="standard"))
        return estimate_training(model, plan).value

    # Five epochs with the teacher beside; a third of a step for each of 10 tokens and the labels.
    assert seconds(3000) - seconds(0) == pytest.approx(
        3000 * (5 * 4 / 3 + 11 / 3) * 0.002, abs=0.05
    )


def test_unlabelled_data_without_a_length_are_not_evaluated(captured, tmp_path):
    model = captured(unlabelled=iter(tiny.samples(10, 7)))
    figure = estimate_training(model, planned(model, tmp_path, "{ epochs = 5 }"))
    assert figure.value is None
    assert "the unlabelled data" in figure.how


def test_a_pruned_model_trains_faster(captured, tmp_path, monkeypatch):
    monkeypatch.setattr(training_time, "_seconds_a_sample", lambda _: 0.002)
    model = captured()

    def seconds(*steps):
        device = profile(tmp_path, *steps)
        plan = make_plan(model, BuildOptions(device=device, effort="standard"))
        return estimate_training(model, plan).value

    prune = ("prune", "{ goal = 'macs', ratio = 0.5, recover = { epochs = 0 } }")
    train = ("train", "{ epochs = 5 }")
    assert seconds(prune, train) == pytest.approx(0.5 * seconds(train), rel=0.15)


def test_a_sample_is_really_timed(captured):
    seconds = training_time._seconds_a_sample(captured())
    assert 0 < seconds < 1


def test_timing_leaves_the_users_model_as_it_was(captured):
    model = captured()
    module = model.workload.model
    # The network was trained in this process and still holds its last gradients.
    weights = [item for item in module.parameters() if item.grad is not None]
    grads = [item.grad.clone() for item in weights]
    before = {name: value.clone() for name, value in module.state_dict().items()}
    training_time._seconds_a_sample(model)
    assert not module.training
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
    assert all(torch.equal(old, item.grad) for old, item in zip(grads, weights, strict=True))


def test_data_without_a_length_are_not_evaluated(captured, tmp_path):
    model = captured(training=iter(tiny.samples(10, 7)))
    figure = estimate_training(model, planned(model, tmp_path, "{ epochs = 5 }"))
    assert figure.value is None
    assert "no len()" in figure.how


def test_a_plan_that_trains_nothing_has_no_such_figure(captured, tmp_path):
    model = captured()
    plan = planned(model, tmp_path, "{ epochs = 5 }")
    step = PlannedStep(name="quantize", is_run=True, reason="")
    bare = training_time.Plan(
        **{
            name: getattr(plan, name)
            for name in ("profile", "target", "compiler", "limits", "specs")
        },
        strategy=Strategy(steps=(step,)),
    )
    assert estimate_training(model, bare) is None


def test_the_plan_shows_it(tmp_path):
    device = profile(tmp_path, ("train", "{ epochs = 2 }"))
    given = tiny.workload(training=tiny.samples(300, 7))
    result = edgekit.plan(given, device=device, effort="standard")
    assert "training_seconds" in [figure.name for figure in result.estimates]
