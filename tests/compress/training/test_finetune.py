"""Plain training: the step, and a new model from the start."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from edgekit.compress.state import load_state, save_state
from edgekit.compress.training.finetune import finetune, fit_model
from edgekit.core.contract import Tensor
from edgekit.core.errors import StepError, WorkloadError
from edgekit.core.progress import Reporter
from edgekit.core.steps import Train
from tests.compress.benches import PIXELS, SILENT, TinyCnn, bench_of, cnn_bench, seeded

SETTINGS = Train(epochs=8, batch_size=64, learning_rate=1e-2, warmup_ratio=0.1)


def _samples(first, last):
    images, labels = load_digits(return_X_y=True)
    for index in range(first, last):
        yield images[index].reshape(8, 8).astype(np.uint8), int(labels[index])


def _top_1(model, first, last):
    """By hand, from the raw pixels."""
    pixels, labels = zip(*_samples(first, last), strict=True)
    images = (torch.from_numpy(np.stack(pixels))[:, None].float() / 16 - 0.3) / 0.35
    with torch.no_grad():
        return (model(images).argmax(1) == torch.tensor(labels)).float().mean().item()


def test_a_new_model_learns_from_random_weights(tmp_path):
    model = seeded(TinyCnn)
    trained = fit_model(
        model,
        {"image": PIXELS},
        training=_samples(0, 1200),
        selection=_samples(1200, 1600),
        folder=tmp_path,
        settings=SETTINGS,
        augment="crop:1",
    )
    # A bare loop without augmentation has 0.94 (tests.compress.benches.fit).
    assert trained.score > 0.9
    assert trained.score == pytest.approx(_top_1(model, 1200, 1600))
    assert not model.training
    assert len(trained.points) == 9


def test_a_call_made_again_goes_on_where_the_first_was(tmp_path):
    found = []
    for _ in range(2):
        model = seeded(TinyCnn)
        said = []
        fit_model(
            model,
            {"image": PIXELS},
            training=_samples(0, 200),
            selection=_samples(1200, 1300),
            folder=tmp_path,
            settings=Train(epochs=2, batch_size=50),
            listener=said.append,
        )
        found.append((model.state_dict(), said))
    for name, value in found[0][0].items():
        assert torch.equal(value, found[1][0][name])
    assert found[0][1]
    assert not found[1][1]  # nothing was trained


class Named(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 1)

    def forward(self, right, left):
        return {"sum": self.linear(left), "right": right}


def test_inputs_go_by_name_and_outputs_by_theirs(tmp_path):
    rng = np.random.default_rng(0)
    values = rng.normal(size=(300, 3)).astype(np.float32)
    samples = [
        {"left": x, "right": np.zeros(2, np.float32), "target": np.float32([x @ [1, -2, 0.5] + 1])}
        for x in values
    ]
    model = Named()
    trained = fit_model(
        model,
        {"left": Tensor(shape=(3,)), "right": Tensor(shape=(2,))},
        training=samples[:200],
        selection=samples[200:],
        folder=tmp_path,
        metric="mae:sum",
        settings=Train(epochs=40, batch_size=20, learning_rate=0.05, weight_decay=0),
    )
    # The function is linear: what is left is the rate at the end.
    assert trained.score < 0.01
    weights = model.linear.weight.detach().flatten().tolist()
    assert weights == pytest.approx([1, -2, 0.5], abs=0.02)


def test_a_metric_against_the_float_model_is_no_goal_for_a_new_one(tmp_path):
    with pytest.raises(StepError, match="cosine compares a model with the one that it was made"):
        fit_model(
            seeded(TinyCnn),
            {"image": PIXELS},
            training=_samples(0, 9),
            selection=_samples(9, 12),
            folder=tmp_path,
            metric="cosine",
        )


def test_samples_without_labels_are_refused_where_labels_are_needed(tmp_path):
    with pytest.raises(WorkloadError, match="training"):
        fit_model(
            seeded(TinyCnn),
            {"image": PIXELS},
            training=[pixels for pixels, _ in _samples(0, 9)],
            selection=_samples(9, 12),
            folder=tmp_path,
        )


# The step.


def test_the_step_trains_a_model_further_and_its_zeros_stay(digits, fitted_cnn, checkpoints):
    keeps = torch.rand(16, 16, 3, 3, generator=torch.Generator().manual_seed(0)) < 0.2
    with torch.no_grad():
        fitted_cnn.second.weight.masked_fill_(~keeps, 0)
    bench = bench_of(fitted_cnn, digits, checkpoints, masks={"second.weight": keeps})
    result = finetune(Train(epochs=4, learning_rate=5e-3), bench, SILENT)
    scores = [point.score for point in result.points]
    assert result.values == {"score": max(scores), "epochs": 4}
    assert max(scores) > scores[0] + 0.05
    assert (result.model.second.weight[~keeps] == 0).all()
    assert set(result.masks) == {"second.weight"}
    assert result.base == "current"


def test_the_step_leaves_a_model_that_can_be_written_down(digits, checkpoints, tmp_path):
    bench = cnn_bench(digits, checkpoints)
    result = finetune(Train(epochs=1), bench, SILENT)
    save_state(result.model, seeded(TinyCnn, 3), tmp_path, result.masks)
    loaded = load_state(seeded(TinyCnn, 3), tmp_path).model
    image = torch.randn(2, 1, 8, 8)
    assert torch.equal(loaded(image), result.model(image))


def test_a_training_that_only_harms_is_said(digits, fitted_mlp, checkpoints):
    said = []
    bench = bench_of(fitted_mlp, digits, checkpoints)
    reporter = Reporter(stage="train", listener=said.append)
    finetune(Train(epochs=1, learning_rate=10.0, warmup_ratio=0, clip_norm=0), bench, reporter)
    warnings = [event.message for event in said if event.kind == "warning"]
    assert len(warnings) == 1
    assert "no epoch was better by top-1" in warnings[0]
    assert "lower learning_rate (now 10)" in warnings[0]


def test_a_step_without_epochs_is_refused(digits, checkpoints):
    with pytest.raises(StepError, match="epochs is 0, which trains nothing"):
        finetune(Train(epochs=0), cnn_bench(digits, checkpoints), SILENT)
