"""What the teachers of a bench say, and what kind of task it is."""

import copy

import pytest
import torch
from torch import nn

from edgekit.compress.distillation.teachers import Teachers, next_tokens, resolve_task
from edgekit.core.contract import Contract
from edgekit.core.errors import StepError
from edgekit.evaluate.builtin import IGNORED_LABEL
from tests.compress import texts
from tests.compress.benches import (
    TinyCnn,
    TinyMlp,
    bench_of,
    cnn_bench,
    contract,
    mlp_bench,
    seeded,
)


def test_the_task_goes_by_the_metric_and_the_targets(digits, checkpoints):
    assert resolve_task("auto", cnn_bench(digits, checkpoints)).kind == "classification"
    embedding = cnn_bench(digits, checkpoints, metric="cosine")
    assert resolve_task("auto", embedding).kind == "embedding"
    values = cnn_bench(digits, checkpoints, metric="mae")
    assert resolve_task("auto", values).label_task == "l1"


def test_a_metric_of_the_users_own_is_judged_by_the_labels_of_the_selection_data(
    digits, checkpoints
):
    def right(outputs, target):
        return (outputs.argmax(1) == target).astype(float)

    bench = cnn_bench(digits, checkpoints, metric=right, training=None)
    assert resolve_task("auto", bench).kind == "classification"


def test_a_task_that_is_asked_for_wins(digits, checkpoints):
    task = resolve_task("regression", cnn_bench(digits, checkpoints))
    assert (task.kind, task.label_task) == ("regression", "mse")


def test_a_language_model_has_scores_of_every_token(tmp_path):
    bench = texts.text_bench(
        tmp_path, seeded(texts.TinyLanguageModel), seeded(texts.TinyLanguageModel)
    )
    task = resolve_task("language", bench)
    assert (task.positions, task.classes) == ((texts.LENGTH,), texts.VOCABULARY)


def test_a_picture_classifier_is_no_language_model(digits, checkpoints):
    with pytest.raises(StepError, match=r"task is 'language' and output 'scores' is \[2, 10\]"):
        resolve_task("language", cnn_bench(digits, checkpoints))


def test_classes_of_pixels_are_second_where_the_labels_say_so(digits, checkpoints):
    class Segmenter(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Conv2d(1, 3, 1)

        def forward(self, image):
            return self.layer(image)

    bench = bench_of(
        seeded(Segmenter), digits, checkpoints, contract=contract(("scores", (3, 8, 8)))
    )
    task = resolve_task("classification", bench)
    assert (task.class_axis, task.classes, task.positions) == (1, 3, (8, 8))


@pytest.mark.parametrize(
    ("outputs", "kind"), [(10, "classification"), (1, "regression"), (64, "classification")]
)
def test_with_a_loss_of_the_users_own_the_labels_tell_whether_there_are_classes(
    digits, checkpoints, outputs, kind
):
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(64, outputs)

        def forward(self, image):
            return self.layer(image.flatten(1))

    def right(found, target):
        return (found.argmax(1) == target).astype(float)

    bench = bench_of(
        seeded(Own),
        digits,
        checkpoints,
        metric=right,
        contract=contract(("scores", (outputs,))),
        loss=lambda found, target: found.sum(),
    )
    assert resolve_task("auto", bench).kind == kind


def test_one_score_a_sample_is_no_choice_between_classes(digits, checkpoints):
    class Single(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(64, 1)

        def forward(self, image):
            return self.layer(image.flatten(1))

    bench = bench_of(seeded(Single), digits, checkpoints, contract=contract(("scores", (1,))))
    with pytest.raises(StepError, match=r"'scores' is \[2, 1\].*at least two of them"):
        resolve_task("classification", bench)


def test_teachers_are_mixed_by_the_mean_of_their_probabilities(digits, checkpoints):
    others = tuple(seeded(TinyCnn, seed) for seed in (1, 2))
    bench = cnn_bench(digits, checkpoints, teachers=others)
    task = resolve_task("auto", bench)
    teachers, inputs = Teachers(bench, task), bench.example(5)
    with torch.no_grad():
        each = [model(inputs["image"]).softmax(-1) for model in (bench.teacher, *others)]
    found = teachers.scores(teachers.teach(inputs), 1.0).softmax(-1)
    assert torch.allclose(found, torch.stack(each).mean(0), atol=1e-6)


def test_teachers_of_a_regression_are_mixed_by_the_mean_of_their_values(digits, checkpoints):
    other = seeded(TinyMlp, 1)
    bench = mlp_bench(digits, checkpoints, metric="mae", teachers=(other,))
    teachers, inputs = Teachers(bench, resolve_task("auto", bench)), bench.example(5)
    with torch.no_grad():
        wanted = (bench.teacher(inputs["image"]) + other(inputs["image"])) / 2
    assert torch.allclose(teachers.values(teachers.teach(inputs), "scores"), wanted)


def test_a_teacher_that_gives_probabilities_is_mixed_with_one_that_gives_scores(
    digits, checkpoints
):
    class Softmaxed(TinyMlp):
        def forward(self, image):
            return super().forward(image).softmax(-1)

    other = seeded(Softmaxed, 1)
    bench = mlp_bench(digits, checkpoints, teachers=(other,))
    teachers, inputs = Teachers(bench, resolve_task("auto", bench)), bench.example(5)
    with torch.no_grad():
        wanted = (bench.teacher(inputs["image"]).softmax(-1) + other(inputs["image"])) / 2
    found = teachers.scores(teachers.teach(inputs), 1.0).softmax(-1)
    assert torch.allclose(found, wanted, atol=1e-6)


def test_a_teacher_of_other_outputs_is_named(digits, checkpoints):
    class Wider(TinyMlp):
        def __init__(self):
            super().__init__()
            self.layers[5] = nn.Linear(48, 7)

    bench = mlp_bench(digits, checkpoints, teachers=(seeded(TinyMlp, 1), seeded(Wider)))
    with pytest.raises(StepError, match=r"teacher 3 of 3: output 'scores' is \[2, 7\].*\[2, 10\]"):
        Teachers(bench, resolve_task("auto", bench))


def test_teachers_are_asked_in_eval_mode_and_without_gradients(digits, checkpoints):
    other = seeded(TinyCnn, 1).train()
    bench = cnn_bench(digits, checkpoints, teachers=(other,))
    before = copy.deepcopy(other.state_dict())
    teachers = Teachers(bench, resolve_task("auto", bench))
    taught = teachers.teach(bench.example(4))
    assert not any(value.requires_grad for found in taught.outputs for value in found.values())
    for name, value in other.state_dict().items():
        assert torch.equal(value, before[name])


def test_the_next_token_is_the_label_of_each_but_not_of_padding(tmp_path):
    bench = texts.text_bench(
        tmp_path, seeded(texts.TinyLanguageModel), seeded(texts.TinyLanguageModel)
    )
    ids = torch.tensor([[3, 5, 7, 0, 0], [4, 6, 8, 10, 1]])
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    no = IGNORED_LABEL
    found = next_tokens(bench, {"ids": ids, "mask": mask})
    assert found.tolist() == [[5, 7, no, no, no], [6, 8, 10, 1, no]]


def test_a_model_of_pictures_has_no_next_token(digits, checkpoints):
    bench = cnn_bench(digits, checkpoints)
    assert isinstance(bench.contract, Contract)
    assert next_tokens(bench, bench.example(2)) is None
