"""The step "distil" from end to end, on real models and real digits."""

import copy
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from edgekit.compress.distillation.distil import distil
from edgekit.compress.state import load_state, save_state
from edgekit.compress.training.objective import label_objective
from edgekit.compress.training.train import train
from edgekit.core.errors import StepError
from edgekit.core.progress import Reporter
from edgekit.core.steps import Distil, Train
from edgekit.data.dataset import TARGET, DatasetWriter
from edgekit.plan.strategy import TAUGHT
from tests.compress import texts
from tests.compress.benches import (
    SILENT,
    TinyCnn,
    TinyMlp,
    TinyTransformer,
    assert_same_state,
    bench_of,
    fit,
    seeded,
    state_of,
)
from tests.compress.distillation import killed_distil
from tests.compress.networks import TinyResNet

ROOT = Path(__file__).parents[3]
SHORT = Train(epochs=1, batch_size=100, learning_rate=1e-2)


def _small():
    return TinyCnn(6)


def _hooks(model):
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks")
    return sum(len(getattr(module, kind)) for module in model.modules() for kind in kinds)


def _accuracy(model, dataset):
    rows = next(iter(dataset.batches(dataset.count)))
    with torch.no_grad():
        said = model(torch.from_numpy(rows["image"])).argmax(-1).numpy()
    return said, rows[TARGET]


@pytest.fixture
def bench(digits, checkpoints, fitted_cnn):
    """A trained teacher, and a factory of small students."""
    return bench_of(seeded(TinyCnn), digits, checkpoints, teacher=fitted_cnn, student=_small)


# What a teacher is good for.


@pytest.fixture(scope="module")
def few_and_many(digits, tmp_path_factory):
    """30 samples with labels, and 1,170 without."""
    folder = tmp_path_factory.mktemp("few")
    rows = next(iter(digits.training.batches(1200)))
    with DatasetWriter(folder / "few") as few, DatasetWriter(folder / "many") as many:
        for index in range(1200):
            image = {"image": rows["image"][index]}
            if index < 30:
                few.append(image | {TARGET: rows[TARGET][index]})
            else:
                many.append(image)
        return few.close(), many.close()


SETTINGS = Train(epochs=4, batch_size=64, learning_rate=1e-2)


def _narrow():
    return TinyMlp(16)


@pytest.mark.slow
def test_a_teacher_makes_more_of_few_labels_than_labels_alone(digits, tmp_path, few_and_many):
    teacher = fit(seeded(TinyCnn), digits)
    few, many = few_and_many
    taught, pseudo, alone = [], [], []
    for seed in range(3):
        bench = bench_of(
            seeded(TinyCnn),
            digits,
            tmp_path / f"taught-{seed}",
            teacher=teacher,
            student=_narrow,
            training=few,
            unlabelled=many,
            seed=seed,
        )
        # As the plan weighs them where there are unlabelled data.
        mixed = Distil(**TAUGHT, train=SETTINGS)
        taught.append(distil(mixed, bench, SILENT).values["score"])
        labels = Distil(soft_weight=0.0, pseudo_label_weight=1.0, train=SETTINGS)
        other = replace(bench, checkpoints=tmp_path / f"pseudo-{seed}")
        pseudo.append(distil(labels, other, SILENT).values["score"])
        # the same student, with as many batches
        own = replace(bench, model=seeded(_narrow, seed), checkpoints=tmp_path / f"alone-{seed}")
        longer = replace(SETTINGS, epochs=SETTINGS.epochs * 19)
        alone.append(train(own.model, label_objective(own), own, longer, SILENT).score)
    assert np.mean(taught) > np.mean(alone) + 0.08
    assert np.mean(pseudo) > np.mean(alone) + 0.08


@pytest.mark.slow
def test_without_any_label_a_student_learns_from_its_teacher(digits, tmp_path, few_and_many):
    teacher = fit(seeded(TinyCnn), digits)
    bench = bench_of(
        seeded(TinyCnn),
        digits,
        tmp_path,
        teacher=teacher,
        student=_narrow,
        training=None,
        unlabelled=few_and_many[1],
    )
    said = []
    longer = Distil(train=replace(SETTINGS, epochs=8))
    found = distil(longer, bench, Reporter(stage="t", listener=said.append))
    assert found.values["score"] > 0.7
    assert found.values["weights"] == {"soft": 0.3}
    assert any("hard_weight counts for nothing" in event.message for event in said)


@pytest.mark.slow
def test_inputs_made_from_a_teacher_teach_more_than_noise_does(digits, tmp_path):
    teacher = fit(seeded(TinyCnn), digits)
    draws = torch.Generator().manual_seed(0)
    with DatasetWriter(tmp_path / "noise") as writer:
        for image in torch.randn(256, 1, 8, 8, generator=draws).numpy():
            writer.append({"image": image})
        noise = writer.close()
    made, dull = (
        distil(
            Distil(
                synthetic_samples=count, synthetic_steps=100, train=replace(SETTINGS, epochs=40)
            ),
            bench_of(
                seeded(TinyCnn),
                digits,
                tmp_path / f"made-{count}",
                teacher=teacher,
                student=lambda: TinyCnn(8),
                training=None,
                unlabelled=None if count else noise,
            ),
            SILENT,
        )
        for count in (256, 0)
    )
    # 0.41 and 0.22 when it was written: the small teacher keeps little of what it saw
    assert made.values["score"] > dull.values["score"] + 0.1
    assert made.values["synthetic_samples"] == 256


# What comes back.


def test_the_report_says_what_was_done(bench, digits):
    result = distil(Distil(feature_weight=0.5, train=SHORT), bench, SILENT)
    values = result.values
    sizes = {"student": _small(), "teacher": bench.teacher}
    assert values["parameters"] == {
        name: sum(item.numel() for item in model.parameters()) for name, model in sizes.items()
    }
    assert values["weights"] == {"hard": 0.7, "soft": 0.3, "feature": 0.5}
    assert (values["student"], values["task"], values["teachers"]) == (
        "factory",
        "classification",
        1,
    )
    assert values["temperature"] == 4.0
    assert values["pairs"] == {"second_norm": "second_norm", "pointwise": "pointwise"}
    ours, target = _accuracy(result.model, digits.selection)
    theirs, _ = _accuracy(bench.teacher, digits.selection)
    assert values["agreement"] == pytest.approx((ours == theirs).mean())
    assert values["score"] == pytest.approx((ours == target).mean())
    assert result.base == "student"


def test_points_have_the_students_own_size(bench):
    alone = distil(Distil(train=SHORT), bench, SILENT)
    again = replace(bench, checkpoints=bench.checkpoints / "again")
    along = distil(
        Distil(feature_weight=1.0, self_weight=1.0, self_from="earlier", train=SHORT),
        again,
        SILENT,
    )
    for result in (alone, along):
        assert {point.parameters for point in result.points} == {
            sum(item.numel() for item in _small().parameters())
        }
        assert len({point.macs for point in result.points}) == 1
        assert [point.name for point in result.points] == ["distil start", "distil epoch 1"]


def test_nothing_that_was_trained_along_stays(bench):
    weights = ("feature", "attention", "relation", "self")
    settings = Distil(**{f"{name}_weight": 1.0 for name in weights}, train=SHORT)
    result = distil(settings, bench, SILENT)
    assert result.model.state_dict().keys() == _small().state_dict().keys()
    assert _hooks(result.model) == _hooks(bench.teacher) == 0
    assert not result.model.training


def test_the_teacher_is_never_changed(bench):
    before = state_of(bench.teacher)
    weights = ("feature", "attention", "relation", "self")
    settings = Distil(**{f"{name}_weight": 1.0 for name in weights}, train=SHORT)
    distil(settings, bench, SILENT)
    assert_same_state(state_of(bench.teacher), before)
    assert not bench.teacher.training


def test_the_same_seed_gives_the_same_student(bench):
    settings = Distil(feature_weight=1.0, self_weight=1.0, train=SHORT)
    before = torch.random.get_rng_state()
    one = distil(settings, bench, SILENT).model
    other = distil(settings, replace(bench, checkpoints=bench.checkpoints / "b"), SILENT).model
    third = distil(
        settings, replace(bench, seed=1, checkpoints=bench.checkpoints / "c"), SILENT
    ).model
    assert_same_state(state_of(one), state_of(other))
    assert not torch.equal(one.stem.weight, third.stem.weight)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_zeros_of_the_model_as_it_stands_stay(digits, checkpoints, fitted_cnn):
    model = fit(seeded(_small), digits, epochs=1)
    draws = torch.Generator().manual_seed(0)
    masks = {
        name: torch.rand(model.get_parameter(name).shape, generator=draws) < 0.4
        for name in ("first.weight", "pointwise.weight")
    }
    with torch.no_grad():
        for name, keeps in masks.items():
            model.get_parameter(name).mul_(keeps)
    bench = bench_of(model, digits, checkpoints, teacher=fitted_cnn, masks=masks)
    result = distil(Distil(feature_weight=1.0, train=SHORT), bench, SILENT)
    assert result.values["student"] == "current"
    assert result.model is model
    assert result.masks == masks
    for name, keeps in masks.items():
        weight = result.model.get_parameter(name)
        assert int((weight[~keeps] != 0).sum()) == 0
        assert bool((weight[keeps] != 0).all())


def test_a_users_own_loop_trains_the_student(bench):
    seen = []

    def trainer(model, batches, loss_of):
        optimizer = torch.optim.Adam(model.parameters(), 1e-2)
        for batch in batches:
            loss = loss_of(model, batch)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            seen.append(loss.item())

    own = replace(bench, trainer=trainer)
    result = distil(Distil(feature_weight=1.0, self_weight=1.0, train=SHORT), own, SILENT)
    assert len(seen) == 12
    assert sum(seen[-3:]) < sum(seen[:3])
    assert result.model.state_dict().keys() == _small().state_dict().keys()


def test_a_users_own_loss_takes_the_labels_part(bench):
    given = []

    def loss(outputs, target):
        given.append((outputs.shape, target.shape, target.dtype))
        return nn.functional.cross_entropy(outputs, target)

    own = replace(bench, loss=loss, unlabelled=bench.calibration)
    distil(Distil(train=SHORT), own, SILENT)
    # 1,264 samples, of which 1,200 have a label: as many came to the loss (and two for a trial)
    assert sum(shape[0] for shape, _, _ in given) in range(1200, 1203)
    assert {(target, dtype) for _, target, dtype in given if target[0]} <= {
        (torch.Size([shape[0]]), torch.int64) for shape, _, _ in given
    }


def test_a_training_that_only_harms_is_told(bench, fitted_cnn, digits):
    said = []
    harmful = Train(epochs=1, batch_size=400, learning_rate=10.0, optimizer="sgd", clip_norm=0.0)
    small = fit(seeded(_small), digits)
    own = replace(bench, model=small, student=None)
    before = state_of(small)
    result = distil(Distil(train=harmful), own, Reporter(stage="t", listener=said.append))
    assert any("no epoch was better by top-1" in event.message for event in said)
    assert_same_state(state_of(result.model), before)


# Every kind of student leaves the step as any model does.


def _deep_transformer():
    return TinyTransformer(layers=4)


KINDS = {
    "factory": lambda model: (model, {"student": _small}),
    "current": lambda model: (seeded(_small, 5), {}),
    "made": lambda model: (model, {}),
}


@pytest.mark.parametrize(
    ("kind", "make"),
    [
        ("factory", TinyCnn),
        ("current", TinyCnn),
        ("made", TinyCnn),
        ("made", TinyResNet),
        ("made", _deep_transformer),
        ("made", TinyMlp),
    ],
)
def test_a_student_is_written_read_back_and_exported(digits, checkpoints, tmp_path, kind, make):
    teacher = seeded(make, 2)
    model, more = KINDS[kind](seeded(make, 2))
    bench = bench_of(model, digits, checkpoints, teacher=teacher, **more)
    weights = {"feature_weight": 1.0, "self_weight": 1.0}
    result = distil(Distil(student=kind, **weights, train=SHORT), bench, SILENT)
    base = {"factory": _small, "current": _small, "made": make}[kind]
    out = tmp_path / "written"
    out.mkdir()
    save_state(result.model, seeded(base, 9), out, result.masks)
    loaded = load_state(seeded(base, 9), out).model
    inputs = bench.example(2)["image"]
    with torch.no_grad():
        wanted = result.model(inputs)
        assert torch.equal(loaded(inputs), wanted)
        exported = torch.export.export(loaded, (inputs,)).module()
        assert torch.allclose(exported(inputs), wanted, atol=1e-6)
    ours, theirs = (sum(item.numel() for item in item.parameters()) for item in (loaded, teacher))
    assert ours < theirs


@pytest.mark.parametrize(
    ("settings", "figure", "most"),
    [
        ({"student_ratio": 0.4}, "parameters", 0.4),
        ({"student_macs": 100_000}, "macs", 100_000 / 314_944),
    ],
)
def test_a_made_student_is_within_its_budget_and_close_to_it(
    bench, fitted_cnn, settings, figure, most
):
    own = replace(bench, student=None, model=copy.deepcopy(fitted_cnn).requires_grad_(True))
    result = distil(Distil(**settings, train=SHORT), own, SILENT)
    share = result.values[figure]["student"] / result.values[figure]["teacher"]
    assert most / 2 < share <= most
    assert result.values["student"] == "made"


def test_a_made_student_inherits_the_masks_of_a_model_that_came_with_some(
    digits, checkpoints, fitted_mlp
):
    weight = fitted_mlp.layers[3].weight
    keeps = torch.rand(weight.shape, generator=torch.Generator().manual_seed(0)) < 0.5
    with torch.no_grad():
        weight.mul_(keeps)
    bench = bench_of(fitted_mlp, digits, checkpoints, masks={"layers.3.weight": keeps})
    result = distil(Distil(student="made", train=SHORT), bench, SILENT)
    found = result.model.layers[3].weight
    assert result.masks.keys() == {"layers.3.weight"}
    mask = result.masks["layers.3.weight"]
    assert mask.shape == found.shape
    assert 0.3 < float((~mask).float().mean()) < 0.7
    assert int((found[~mask] != 0).sum()) == 0
    assert bool((found[mask] != 0).all())


# Language models.


@pytest.mark.slow
@pytest.mark.parametrize("has_labels", [True, False])
def test_a_language_model_is_distilled_token_by_token(tmp_path, has_labels):
    teacher = seeded(lambda: texts.TinyLanguageModel(32), 1)
    data = texts.write_texts(tmp_path / "texts", 512, 0)
    bench = texts.text_bench(tmp_path, teacher, seeded(lambda: texts.TinyLanguageModel(32)))
    long = Train(epochs=12, batch_size=64, learning_rate=1e-2)
    taught = train(teacher, label_objective(bench), replace(bench, training=data), long, SILENT)
    training = data if has_labels else texts.write_texts(tmp_path / "x", 512, 0, has_labels=False)
    own = replace(
        bench,
        teacher=teacher,
        model=teacher,
        training=training,
        student=lambda: texts.TinyLanguageModel(12),
        checkpoints=tmp_path / "distilled",
    )
    settings = Distil(
        task="language",
        temperature=2.0,
        attention_weight=0.5,
        feature_weight=0.5,
        self_weight=0.2,
        train=replace(long, epochs=6),
    )
    result = distil(settings, own, SILENT)
    # guessing costs log 12 = 2.5 nats; a token after two others is certain
    assert taught.score < 0.6
    assert result.values["score"] < 1.0
    assert result.values["agreement"] > 0.5
    assert result.values["weights"]["hard"] == 0.7


# A kill.


def _start(data, out, self_from):
    threads = str(torch.get_num_threads())
    command = [sys.executable, "-m", "tests.compress.distillation.killed_distil"]
    return subprocess.Popen(
        [*command, data, out, self_from, threads], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )


@pytest.mark.slow
@pytest.mark.parametrize(("self_from", "kills"), [("exits", (7,)), ("earlier", (8, 2))])
def test_a_distillation_killed_and_started_again_ends_with_the_same_bits(
    digits, tmp_path, fitted_cnn, self_from, kills
):
    data = tmp_path / "data"
    shutil.copytree(digits.training.path.parent, data)
    torch.save(fitted_cnn.state_dict(), data / "teacher.pt")
    whole = killed_distil.run(data, tmp_path / "whole", self_from)
    out = tmp_path / "killed"
    out.mkdir()
    for batches in kills:
        with _start(data, out, self_from) as process:
            done = 0
            while done < batches:
                done += process.stdout.readline().startswith("progress distil: epoch")
            process.kill()
    with _start(data, out, self_from) as process:
        said = list(process.stdout)
    assert process.returncode == 0
    assert any(line.startswith("note distil: goes on from epoch") for line in said)
    assert_same_state(torch.load(out / "student.pt"), state_of(whole.model))


# What cannot be done.


def test_a_student_larger_than_its_teacher_is_refused_before_any_work(bench):
    own = replace(bench, student=lambda: TinyCnn(30))
    with pytest.raises(StepError, match="the student has 19,390 parameters and its teacher 5,866"):
        distil(Distil(train=SHORT), own, SILENT)
    assert not own.checkpoints.exists()


def test_no_data_are_refused(bench):
    with pytest.raises(StepError, match="there are no training data"):
        distil(Distil(train=SHORT), replace(bench, training=None), SILENT)


def test_a_pair_of_layers_that_are_not_there_is_refused(bench):
    settings = Distil(feature_weight=1.0, pairs={"stemm": "stem"}, train=SHORT)
    with pytest.raises(StepError, match=r"the student has no layer 'stemm'.*did you mean 'stem'"):
        distil(settings, bench, SILENT)
