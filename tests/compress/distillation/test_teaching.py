"""The loss put together: each term is what its formula says, and only the student learns."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional

from edgekit.compress.distillation.learner import Learner
from edgekit.compress.distillation.lessons import Lessons, Pool, mix
from edgekit.compress.distillation.losses import relation_loss
from edgekit.compress.distillation.teachers import Teachers, resolve_task
from edgekit.compress.distillation.teaching import Teaching
from edgekit.compress.training.batches import Batches
from edgekit.core.errors import StepError
from edgekit.core.steps import Distil
from tests.compress import texts
from tests.compress.benches import TinyCnn, TinyMlp, TinyTransformer, bench_of, mlp_bench, seeded
from tests.compress.networks import TinyResNet

NO_WEIGHTS = {"hard_weight": 0.0, "soft_weight": 0.0}


def _bench(digits, checkpoints, student, teacher, **changes):
    return bench_of(student, digits, checkpoints, teacher=teacher, **changes)


def _made(bench, lessons=None, **settings):
    settings = Distil(**{**NO_WEIGHTS, **settings})
    task = resolve_task(settings.task, bench)
    teaching = Teaching(bench.model.eval(), settings, bench, task, Teachers(bench, task))
    return teaching.make(lessons or Lessons(dataset=bench.training, has_labels=True))


def _batch(bench, count=8):
    return next(Batches(bench, count).epoch(0))


def _pair(digits, checkpoints, **changes):
    bench = _bench(digits, checkpoints, seeded(lambda: TinyMlp(8)), seeded(TinyMlp, 1), **changes)
    batch = _batch(bench)
    with torch.no_grad():
        scores = bench.teacher(batch.inputs["image"])
    return bench, batch, bench.model(batch.inputs["image"]), scores


def test_hard_and_soft_labels_are_mixed_by_their_weights(digits, checkpoints):
    bench, batch, ours, theirs = _pair(digits, checkpoints)
    model, loss = _made(bench, hard_weight=0.25, soft_weight=2.0, temperature=3.0)
    soft = functional.kl_div(
        (ours / 3).log_softmax(-1), (theirs / 3).softmax(-1), reduction="batchmean"
    )
    wanted = 0.25 * functional.cross_entropy(ours, batch.target) + 2 * 9 * soft
    assert loss(model, batch).item() == pytest.approx(wanted.item(), rel=1e-5)
    assert model is bench.model


def test_an_ensemble_is_followed_by_its_mean(digits, checkpoints):
    other = seeded(TinyMlp, 5)
    bench, batch, ours, theirs = _pair(digits, checkpoints, teachers=(other,))
    model, loss = _made(bench, soft_weight=1.0, temperature=2.0)
    with torch.no_grad():
        second = other(batch.inputs["image"])
    mean = ((theirs / 2).softmax(-1) + (second / 2).softmax(-1)) / 2
    wanted = 4 * functional.kl_div((ours / 2).log_softmax(-1), mean, reduction="batchmean")
    assert loss(model, batch).item() == pytest.approx(wanted.item(), rel=1e-4)


def test_a_regression_follows_the_teachers_values(digits, checkpoints):
    bench, batch, ours, theirs = _pair(digits, checkpoints, metric="mae")
    model, loss = _made(bench, soft_weight=1.0)
    assert loss(model, batch).item() == pytest.approx(functional.l1_loss(ours, theirs).item())


def test_an_embedding_follows_the_teachers_direction(digits, checkpoints):
    bench, batch, ours, theirs = _pair(digits, checkpoints, metric="cosine")
    model, loss = _made(bench, soft_weight=1.0)
    wanted = 1 - functional.cosine_similarity(ours, theirs).mean()
    assert loss(model, batch).item() == pytest.approx(wanted.item(), rel=1e-5)


def test_relations_are_those_of_what_the_last_layer_is_given(digits, checkpoints):
    bench, batch, _, _ = _pair(digits, checkpoints)
    model, loss = _made(bench, relation_weight=1.0)
    images = batch.inputs["image"]
    ours, theirs = (item.layers[:5](images) for item in (bench.model, bench.teacher))
    wanted = relation_loss(ours, theirs)
    assert loss(model, batch).item() == pytest.approx(wanted.item(), rel=1e-5)


def test_relations_of_embeddings_are_those_of_the_outputs(digits, checkpoints):
    bench, batch, ours, theirs = _pair(digits, checkpoints, metric="cosine")
    model, loss = _made(bench, relation_weight=1.0)
    wanted = relation_loss(ours, theirs)
    assert loss(model, batch).item() == pytest.approx(wanted.item(), rel=1e-5)


def test_features_are_projected_and_compared_layer_by_layer(digits, checkpoints):
    bench, batch, _, _ = _pair(digits, checkpoints)
    model, loss = _made(bench, feature_weight=1.0)
    images, losses = batch.inputs["image"], []
    for end, projection in zip((2, 4), model.projections, strict=True):
        ours = functional.linear(
            bench.model.layers[:end](images), projection.weight, projection.bias
        )
        theirs = bench.teacher.layers[:end](images)
        losses.append(functional.mse_loss(ours, theirs) / theirs.square().mean())
    assert loss(model, batch).item() == pytest.approx(torch.stack(losses).mean().item(), rel=1e-5)


def test_exits_follow_the_deepest_one_and_the_labels(digits, checkpoints):
    bench, batch, ours, _ = _pair(digits, checkpoints)
    model, loss = _made(bench, self_weight=1.0, temperature=2.0)
    (head,) = model.exits
    inner = bench.model.layers[:2](batch.inputs["image"])
    early = functional.linear(inner, head.head.weight, head.head.bias)
    soft = functional.kl_div(
        (early / 2).log_softmax(-1), (ours / 2).softmax(-1), reduction="batchmean"
    )
    wanted = (4 * soft + functional.cross_entropy(early, batch.target)) / 2
    assert loss(model, batch).item() == pytest.approx(wanted.item(), rel=1e-5)


def test_exits_do_not_pull_the_deepest_output_towards_them(digits, checkpoints):
    bench, batch, _, _ = _pair(digits, checkpoints)
    model, loss = _made(bench, self_weight=1.0)
    loss(model, batch).backward()
    assert bench.model.layers[1].weight.grad.abs().sum() > 0
    assert bench.model.layers[5].weight.grad is None


def test_an_earlier_self_is_followed_as_a_teacher_is(digits, checkpoints):
    bench, batch, ours, _ = _pair(digits, checkpoints)
    model, loss = _made(bench, self_weight=1.0, self_from="earlier", temperature=2.0)
    with torch.no_grad():
        model.earlier.layers[5].bias.add_(torch.arange(10.0))
        theirs = ours + torch.arange(10.0)
    wanted = 4 * functional.kl_div(
        (ours / 2).log_softmax(-1), (theirs / 2).softmax(-1), reduction="batchmean"
    )
    assert loss(model, batch).item() == pytest.approx(wanted.item(), rel=1e-4)


@pytest.mark.parametrize(
    ("student", "teacher"),
    [
        (lambda: TinyResNet(4, (1, 2)), TinyResNet),
        (lambda: TinyTransformer(16, 2), TinyTransformer),
        (lambda: TinyCnn(4), TinyCnn),
    ],
)
def test_gradients_flow_into_the_student_and_what_is_trained_along_alone(
    digits, checkpoints, student, teacher
):
    bench = _bench(digits, checkpoints, seeded(student), seeded(teacher, 1))
    bench.teacher.requires_grad_(True)  # as a caller might hand it over
    weights = ("soft", "hard", "feature", "attention", "relation", "self")
    model, loss = _made(bench, **{f"{name}_weight": 1.0 for name in weights})
    loss(model, _batch(bench)).backward()
    assert all(value.grad is None for value in bench.teacher.parameters())
    for name, value in model.named_parameters():
        assert value.grad is not None, name
    assert all(value.grad.abs().sum() > 0 for value in bench.model.parameters() if value.ndim > 1)


def test_the_teacher_runs_once_for_all_that_looks_at_it(digits, checkpoints):
    bench = _bench(digits, checkpoints, seeded(lambda: TinyCnn(4)), seeded(TinyCnn))
    weights = ("soft", "feature", "attention", "relation")
    model, loss = _made(bench, **{f"{name}_weight": 1.0 for name in weights})
    runs = []
    handles = [
        item.register_forward_hook(lambda module, *_: runs.append(module))
        for item in (bench.teacher.stem, bench.model.stem)
    ]
    loss(model, _batch(bench))
    for handle in handles:
        handle.remove()
    assert runs == [bench.teacher.stem, bench.model.stem]


def test_without_a_share_for_the_teacher_it_does_not_run(digits, checkpoints):
    bench = _bench(digits, checkpoints, seeded(lambda: TinyCnn(4)), seeded(TinyCnn))
    model, loss = _made(bench, hard_weight=1.0, self_weight=1.0)
    bench.teacher.forward = None  # would fail
    assert torch.isfinite(loss(model, _batch(bench)))


def test_the_same_seed_gives_the_same_projections(digits, checkpoints):
    found = []
    for seed in (0, 0, 1):
        bench = _bench(digits, checkpoints, seeded(lambda: TinyCnn(4)), seeded(TinyCnn), seed=seed)
        model, _ = _made(bench, feature_weight=1.0, self_weight=1.0)
        assert isinstance(model, Learner)
        found.append([*model.projections.state_dict().values(), *model.exits.state_dict().values()])
    one, other, third = found
    assert all(torch.equal(*pair) for pair in zip(one, other, strict=True))
    assert not torch.equal(one[0], third[0])


def _mixed(bench, digits, tmp_path, labels):
    pool = Pool(
        dataset=digits.calibration,
        labels=labels.astype("int32"),
        times=torch.ones(64, dtype=torch.long).numpy(),
    )
    return mix(bench, bench.training, [pool], tmp_path / "mixed")


def test_labels_of_a_mixture_count_where_there_are_some(digits, checkpoints, tmp_path):
    bench = _bench(
        digits,
        checkpoints,
        seeded(lambda: TinyMlp(8)),
        seeded(TinyMlp, 1),
        training=digits.selection,
    )
    labels = np.where(np.arange(64) % 2, np.arange(64) % 10, -100)
    lessons = _mixed(bench, digits, tmp_path, labels)
    batch = _batch(replace(bench, training=lessons.dataset), 200)
    parts = lessons.parts(batch)
    ours = bench.model(batch.inputs["image"])
    model, hard = _made(bench, lessons, hard_weight=1.0)
    wanted = functional.cross_entropy(ours[parts.labelled], parts.target)
    assert hard(model, batch).item() == pytest.approx(wanted.item(), rel=1e-5)
    model, pseudo = _made(bench, lessons, pseudo_label_weight=1.0)
    chosen = parts.pseudo >= 0
    assert 0 < int(chosen.sum()) < int((~parts.labelled).sum())
    wanted = functional.cross_entropy(ours[chosen], parts.pseudo[chosen])
    assert pseudo(model, batch).item() == pytest.approx(wanted.item(), rel=1e-5)


def test_a_batch_that_teaches_nothing_costs_nothing(digits, checkpoints, tmp_path):
    bench = mlp_bench(digits, checkpoints, training=digits.selection)
    lessons = _mixed(bench, digits, tmp_path, np.full(64, -100))
    everything = _batch(replace(bench, training=lessons.dataset), 464)
    chosen = ~lessons.parts(everything).labelled
    batch = replace(
        everything,
        inputs={"image": everything.inputs["image"][chosen]},
        target=everything.target[chosen],
    )
    model, loss = _made(bench, lessons, hard_weight=1.0)
    found = loss(model, batch)
    found.backward()
    assert found.item() == 0.0
    assert all(value.grad.abs().sum() == 0 for value in model.parameters())


def test_tokens_that_do_not_count_teach_nothing(tmp_path):
    bench = texts.text_bench(
        tmp_path, seeded(texts.TinyLanguageModel), seeded(texts.TinyLanguageModel, 1)
    )
    batch = _batch(bench, 4)
    model, loss = _made(bench, soft_weight=1.0, task="language", temperature=1.0)
    ours, theirs = (
        item(batch.inputs["ids"], batch.inputs["mask"]) for item in (bench.model, bench.teacher)
    )
    rows = functional.kl_div(ours.log_softmax(-1), theirs.softmax(-1), reduction="none").sum(-1)
    is_counted = batch.target != -100
    assert loss(model, batch).item() == pytest.approx(rows[is_counted].mean().item(), rel=1e-4)
    assert not bool(is_counted.all())


def test_text_without_labels_teaches_its_own_next_tokens(tmp_path):
    training = texts.write_texts(tmp_path / "plain", 64, 0, has_labels=False)
    bench = texts.text_bench(
        tmp_path,
        seeded(texts.TinyLanguageModel),
        seeded(texts.TinyLanguageModel, 1),
        training=training,
    )
    lessons = Lessons(dataset=training, has_labels=False)
    model, loss = _made(bench, lessons, hard_weight=1.0, task="language")
    batch = _batch(bench, 4)
    ids, mask = batch.inputs["ids"], batch.inputs["mask"]
    labels = torch.from_numpy(texts.next_labels(ids.numpy(), mask.numpy()))
    wanted = functional.cross_entropy(
        bench.model(ids, mask).flatten(0, 1), labels.flatten(), ignore_index=-100
    )
    assert loss(model, batch).item() == pytest.approx(wanted.item(), rel=1e-5)


def test_hard_labels_alone_need_labels(digits, checkpoints):
    bench = mlp_bench(digits, checkpoints)
    with pytest.raises(StepError, match="hard_weight is the only share of the loss"):
        _made(bench, Lessons(dataset=digits.training, has_labels=False), hard_weight=1.0)


def test_attention_maps_of_vectors_are_refused(digits, checkpoints):
    with pytest.raises(StepError, match="attention_weight: the models' paired layers give vectors"):
        _made(mlp_bench(digits, checkpoints), attention_weight=1.0)
