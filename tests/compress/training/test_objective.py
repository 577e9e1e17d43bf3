"""Losses, against torch's own and arithmetic by hand."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from edgekit.compress.bench import Batch
from edgekit.compress.training.class_losses import soft_labels
from edgekit.compress.training.loss_checks import check_outputs_match
from edgekit.compress.training.objective import label_objective, task_of, teacher_objective
from edgekit.core.errors import StepError
from edgekit.data.dataset import DatasetWriter
from tests.compress.benches import bench_of, contract, mlp_bench


class Fixed(nn.Module):
    """Gives what it holds, whatever comes in."""

    def __init__(self, **outputs):
        super().__init__()
        self.names = list(outputs)
        for name, value in outputs.items():
            self.register_parameter(name, nn.Parameter(torch.as_tensor(value)))

    def forward(self, image):
        return {name: getattr(self, name) * 1 for name in self.names}


def _data(folder, target, count=4):
    """Blank pictures with this target."""
    with DatasetWriter(folder) as writer:
        for _ in range(count):
            sample = {"image": np.zeros((1, 8, 8), np.float32)}
            writer.append(sample if target is None else {**sample, "target": target})
    return writer.close()


def _batch(count, target=None):
    return Batch(inputs={"image": torch.zeros(count, 1, 8, 8)}, target=target)


def _bench(digits, tmp_path, student, teacher=None, *, target=None, **changes):
    outputs = tuple(
        (name, tuple(getattr(student, name).shape[1:])) for name in getattr(student, "names", ())
    )
    training = digits.training
    if target is not None:
        training = _data(tmp_path / "targets", target)
    return bench_of(
        student,
        digits,
        tmp_path / "checkpoints",
        teacher=teacher,
        contract=contract(*outputs),
        training=training,
        **changes,
    )


def _value(loss):
    return loss.detach().item()


def _scores(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# The label objective.


@pytest.mark.parametrize("metric", ["top-1", "top-5", "nll"])
def test_metrics_of_classes_are_trained_with_cross_entropy(digits, checkpoints, metric):
    bench = mlp_bench(digits, checkpoints, metric=metric)
    batch = Batch(inputs={"image": _scores(6, 1, 8, 8)}, target=torch.randint(0, 10, (6,)))
    expected = functional.cross_entropy(bench.model(batch.inputs["image"]), batch.target)
    assert torch.equal(label_objective(bench)(bench.model, batch), expected)
    smooth = functional.cross_entropy(
        bench.model(batch.inputs["image"]), batch.target, label_smoothing=0.2
    )
    found = label_objective(bench, label_smoothing=0.2)(bench.model, batch)
    assert torch.equal(found, smooth)


def test_mae_is_trained_with_the_mean_absolute_error(digits, tmp_path):
    student = Fixed(y=[[1.0], [5.0]])
    bench = _bench(digits, tmp_path, student, target=np.float32([0.0]), metric="mae")
    target = torch.tensor([3.0, 2.0])  # a column may be missing
    assert _value(label_objective(bench)(student, _batch(2, target))) == pytest.approx(2.5)


def test_values_with_a_metric_of_the_users_own_are_trained_with_the_squared_error(digits, tmp_path):
    student = Fixed(y=[[1.0], [5.0]])
    bench = _bench(
        digits, tmp_path, student, target=np.float32([0.0]), metric=lambda y, t: -abs(y - t)[:, 0]
    )
    assert task_of(bench) == "mse"
    target = torch.tensor([[3.0], [2.0]])
    assert _value(label_objective(bench)(student, _batch(2, target))) == pytest.approx(6.5)


def test_whole_numbers_with_a_metric_of_the_users_own_are_classes(digits, checkpoints):
    bench = mlp_bench(digits, checkpoints, metric=lambda y, t: y.argmax(1) == t)
    assert task_of(bench) == "classification"


def test_embeddings_are_trained_to_their_targets_by_direction(digits, tmp_path):
    student = Fixed(y=[[1.0, 0.0], [0.0, 2.0]])
    bench = _bench(digits, tmp_path, student, target=np.float32([0.0, 1.0]), metric="cosine")
    target = torch.tensor([[0.0, 1.0], [0.0, 5.0]])
    # Cosines 0 and 1.
    assert _value(label_objective(bench)(student, _batch(2, target))) == pytest.approx(0.5)


def test_embeddings_without_targets_follow_the_teacher(digits, tmp_path):
    student, teacher = Fixed(y=[[1.0, 0.0]]), Fixed(y=[[1.0, 1.0]])
    bench = _bench(digits, tmp_path, student, teacher, metric="cosine")
    bench = dataclasses.replace(bench, training=_data(tmp_path / "plain", None))
    expected = 1 - 1 / math.sqrt(2)
    assert _value(label_objective(bench)(student, _batch(1))) == pytest.approx(expected)


def test_the_output_that_the_metric_names_is_trained(digits, tmp_path):
    student = Fixed(side=_scores(3, 2), main=_scores(3, 4, seed=1))
    bench = _bench(digits, tmp_path, student, target=np.int64(0), metric="top-1:main")
    labels = torch.tensor([0, 3, 1])
    expected = functional.cross_entropy(student.main, labels)
    assert torch.equal(label_objective(bench)(student, _batch(3, labels)), expected)


def test_an_output_that_the_model_has_not_gets_the_nearest_name(digits, tmp_path):
    bench = _bench(digits, tmp_path, Fixed(main=_scores(3, 4)), metric="top-1:mein")
    with pytest.raises(StepError, match="no output 'mein'; did you mean 'main'"):
        label_objective(bench)


def test_probabilities_are_not_put_through_a_softmax_again(digits, tmp_path):
    scores = _scores(4, 3)
    student = Fixed(y=torch.softmax(scores, 1))
    bench = _bench(digits, tmp_path, student, target=np.int64(0))
    labels = torch.tensor([0, 1, 2, 1])
    found = label_objective(bench)(student, _batch(4, labels))
    # Twice rounded: softmax, then its logarithm.
    assert torch.allclose(found, functional.cross_entropy(scores, labels), atol=1e-6)


def test_targets_that_are_missing_are_asked_for(digits, tmp_path):
    bench = _bench(digits, tmp_path, Fixed(y=_scores(3, 4)))
    bench = dataclasses.replace(bench, training=_data(tmp_path / "plain", None))
    with pytest.raises(StepError, match="needs targets, and the training data have none"):
        label_objective(bench)
    with pytest.raises(StepError, match=r"or let a teacher have all of the loss"):
        teacher_objective(bench, 0.5)
    teacher_objective(bench, 1.0)


def test_targets_that_go_with_no_loss_are_an_error_that_asks_for_one(digits, tmp_path):
    bench = _bench(
        digits,
        tmp_path,
        Fixed(y=_scores(3, 4)),
        target=np.zeros((5, 2), np.float32),
        metric=lambda y, t: y.mean(1),
    )
    with pytest.raises(StepError, match=r"float32 \[5, 2\] and outputs of \[4\].*give.*'loss'"):
        label_objective(bench)


def test_values_of_another_size_than_their_targets_are_refused(digits, tmp_path):
    student = Fixed(y=[[1.0], [5.0]])
    bench = _bench(digits, tmp_path, student, target=np.float32([0.0]), metric="mae")
    with pytest.raises(StepError, match=r"shape \[2, 1\] and targets of \[2, 2\]"):
        label_objective(bench)(student, _batch(2, torch.zeros(2, 2)))


# The user's own loss.


def test_the_users_own_loss_goes_before_the_metric(digits, checkpoints):
    bench = mlp_bench(digits, checkpoints, loss=lambda y, t: (y[:, 0] - t).square().mean())
    batch = _batch(3, torch.tensor([1.0, 2.0, 3.0]))
    expected = (bench.model(batch.inputs["image"])[:, 0] - batch.target).square().mean()
    assert torch.equal(label_objective(bench)(bench.model, batch), expected)


def test_a_loss_of_several_outputs_gets_them_by_name(digits, tmp_path):
    student = Fixed(a=_scores(2, 3), b=_scores(2, 1, seed=1))
    bench = _bench(digits, tmp_path, student, loss=lambda y, t: y["a"].mean() + y["b"].sum())
    found = label_objective(bench)(student, _batch(2))
    assert torch.equal(found, student.a.mean() + student.b.sum())


# Following a teacher.


def test_the_teachers_share_of_the_loss_is_the_weight(digits, tmp_path):
    student, teacher = Fixed(y=_scores(4, 3)), Fixed(y=_scores(4, 3, seed=1))
    bench = _bench(digits, tmp_path, student, teacher, target=np.int64(0))
    labels = torch.tensor([0, 1, 2, 1])
    hard = functional.cross_entropy(student.y, labels)
    soft = functional.kl_div(
        torch.log_softmax(student.y / 3, 1), torch.softmax(teacher.y / 3, 1), reduction="batchmean"
    )
    found = teacher_objective(bench, 0.3, 3.0)(student, _batch(4, labels))
    assert torch.allclose(found, 0.3 * 9 * soft + 0.7 * hard)


def test_positions_that_do_not_count_are_not_followed(digits, tmp_path):
    student, teacher = Fixed(y=_scores(2, 3, 5)), Fixed(y=_scores(2, 3, 5, seed=1))
    bench = _bench(digits, tmp_path, student, teacher, target=np.zeros(3, np.int64))
    labels = torch.tensor([[1, -100, 2], [-100, -100, 0]])
    rows = [(0, 0), (0, 2), (1, 2)]
    expected = soft_labels(
        torch.stack([student.y[i, j] for i, j in rows]),
        torch.stack([teacher.y[i, j] for i, j in rows]),
        4.0,
    )
    found = teacher_objective(bench, 1.0)(student, _batch(2, labels))
    assert torch.allclose(found, expected)


def test_a_sample_without_a_label_is_followed_all_the_same(digits, tmp_path):
    student, teacher = Fixed(y=_scores(2, 5)), Fixed(y=_scores(2, 5, seed=1))
    bench = _bench(digits, tmp_path, student, teacher)
    found = teacher_objective(bench, 1.0)(student, _batch(2, torch.tensor([-100, -100])))
    assert torch.allclose(found, soft_labels(student.y, teacher.y, 4.0))


def test_classes_on_the_second_axis_are_softened_over_it(digits, tmp_path):
    student, teacher = Fixed(y=_scores(2, 5, 3)), Fixed(y=_scores(2, 5, 3, seed=1))
    bench = _bench(digits, tmp_path, student, teacher, target=np.zeros(3, np.int64))
    found = teacher_objective(bench, 1.0)(student, _batch(2, torch.zeros(2, 3).long()))
    ours, theirs = (value.y.movedim(1, 2).reshape(-1, 5) for value in (student, teacher))
    assert torch.allclose(found, soft_labels(ours, theirs, 4.0))


def test_values_follow_the_teachers_values(digits, tmp_path):
    student, teacher = Fixed(y=[[1.0], [5.0]]), Fixed(y=[[2.0], [2.0]])
    bench = _bench(digits, tmp_path, student, teacher, target=np.float32([0.0]), metric="mae")
    assert _value(teacher_objective(bench, 1.0)(student, _batch(2))) == pytest.approx(2.0)


def test_every_output_of_an_embedding_follows_its_direction(digits, tmp_path):
    student = Fixed(a=[[1.0, 0.0]], b=[[1.0, 0.0]])
    teacher = Fixed(a=[[2.0, 0.0]], b=[[0.0, 1.0]])
    bench = _bench(digits, tmp_path, student, teacher, metric="cosine")
    assert _value(teacher_objective(bench, 1.0)(student, _batch(1))) == pytest.approx(0.5)


def test_the_teacher_gets_no_gradient(digits, tmp_path):
    student, teacher = Fixed(y=_scores(4, 3)), Fixed(y=_scores(4, 3, seed=1))
    bench = _bench(digits, tmp_path, student, teacher)
    teacher.y.requires_grad_()
    teacher_objective(bench, 1.0)(student, _batch(4, torch.zeros(4))).backward()
    assert teacher.y.grad is None
    assert student.y.grad is not None


def test_a_users_own_loss_is_mixed_with_the_teacher(digits, tmp_path):
    student, teacher = Fixed(y=_scores(4, 3)), Fixed(y=_scores(4, 3, seed=1))
    bench = _bench(digits, tmp_path, student, teacher, loss=lambda y, t: y.square().mean())
    found = teacher_objective(bench, 0.5)(student, _batch(4, torch.zeros(4).long()))
    expected = (soft_labels(student.y, teacher.y, 4.0) + student.y.square().mean()) / 2
    assert torch.allclose(found, expected)


def test_outputs_that_do_not_match_are_named_with_their_shapes(digits, tmp_path):
    bench = _bench(digits, tmp_path, Fixed(y=_scores(4, 3)), Fixed(y=_scores(4, 5)))
    with pytest.raises(StepError, match=r"'y' is \[4, 3\], the teacher's \[4, 5\]"):
        teacher_objective(bench, 1.0)(bench.model, _batch(4))
    with pytest.raises(StepError, match="outputs are a, b, the teacher's a, c"):
        check_outputs_match({"a": _scores(1), "b": _scores(1)}, {"a": _scores(1), "c": _scores(1)})


@pytest.mark.parametrize(
    ("weight", "temperature", "message"),
    [
        (-0.1, 4.0, "teacher weight is -0.1; it is a share of the loss, 0 to 1"),
        (math.nan, 4.0, "teacher weight is nan"),
        (0.5, 0.0, "temperature is 0.0; it must be above 0"),
    ],
)
def test_shares_and_temperatures_outside_their_range_are_refused(
    digits, checkpoints, weight, temperature, message
):
    with pytest.raises(StepError, match=message):
        teacher_objective(mlp_bench(digits, checkpoints), weight, temperature)


def test_no_weight_for_the_teacher_is_the_label_loss(digits, checkpoints):
    bench = mlp_bench(digits, checkpoints)
    batch = _batch(3, torch.tensor([1, 2, 3]))
    found = teacher_objective(bench, 0.0)(bench.model, batch)
    assert torch.equal(found, label_objective(bench)(bench.model, batch))
