"""Scores of a model, against the same metric by hand."""

import numpy as np
import pytest
import torch

from edgekit.compress.judge import Judge
from edgekit.core.errors import WorkloadError
from tests.compress.benches import TinyMlp, bench_of, seeded


@pytest.fixture
def outputs(digits, fitted_mlp):
    rows = next(digits.selection.batches(digits.selection.count))
    with torch.no_grad():
        return fitted_mlp(torch.from_numpy(rows["image"])).numpy(), rows["target"]


def _bench(digits, fitted_mlp, checkpoints, metric, **changes):
    return bench_of(fitted_mlp, digits, checkpoints, metric=metric, **changes)


def test_a_score_is_the_mean_over_all_samples(digits, fitted_mlp, checkpoints, outputs):
    scores, labels = outputs
    judge = Judge(_bench(digits, fitted_mlp, checkpoints, "top-1"))
    assert judge.score(fitted_mlp) == pytest.approx(float((scores.argmax(1) == labels).mean()))


def test_a_judgement_has_the_same_unit_whatever_the_scores(digits, fitted_mlp, checkpoints):
    # All scores 0 or 1 are told in percent to a reader; a choice must not see the unit change.
    for metric in ("top-1", lambda y, t: (y.argmax(1) == t) * 0.5):
        judge = Judge(_bench(digits, fitted_mlp, checkpoints, metric))
        found = judge.judge(fitted_mlp)
        assert found.score == pytest.approx(judge.score(fitted_mlp))
        assert 0 < found.score < 1
        assert found.drop == 0


def test_a_metric_of_the_whole_set_gets_it_at_once(digits, fitted_mlp, checkpoints, outputs):
    seen = []

    def spread(scores, target):
        seen.append(len(scores))
        return float(scores.std())

    judge = Judge(_bench(digits, fitted_mlp, checkpoints, spread))
    assert judge.score(fitted_mlp) == pytest.approx(float(outputs[0].std()), rel=1e-5)
    assert judge.score(fitted_mlp) == judge.score(fitted_mlp)
    # Once in vain on the first batch, then always on all.
    assert seen == [128, 400, 400, 400]


def test_cosine_compares_with_the_float_model(digits, fitted_mlp, checkpoints, outputs):
    other = seeded(TinyMlp, 4)
    bench = bench_of(other, digits, checkpoints, teacher=fitted_mlp, metric="cosine")
    rows = next(digits.selection.batches(400))
    with torch.no_grad():
        ours = other(torch.from_numpy(rows["image"])).numpy()
    lengths = np.linalg.norm(ours, axis=1) * np.linalg.norm(outputs[0], axis=1)
    by_hand = ((ours * outputs[0]).sum(axis=1) / lengths).mean()
    assert Judge(bench).score(other) == pytest.approx(float(by_hand), abs=1e-5)


def test_the_float_model_does_not_run_where_the_metric_has_no_use_for_it(
    digits, fitted_mlp, checkpoints
):
    class Unused(torch.nn.Module):
        def forward(self, image):
            pytest.fail("the float model ran")

    bench = _bench(digits, fitted_mlp, checkpoints, "nll", teacher=Unused())
    assert Judge(bench).score(fitted_mlp) > 0


def test_outputs_that_are_nan_are_refused(digits, fitted_mlp, checkpoints):
    bench = _bench(digits, fitted_mlp, checkpoints, "nll")
    torch.nn.init.constant_(fitted_mlp.layers[5].bias, float("nan"))
    with pytest.raises(WorkloadError, match="metric nll: nan for sample 0 of batch 0"):
        Judge(bench).score(fitted_mlp)


def test_judging_leaves_the_modes_of_a_model_as_they_were(digits, fitted_cnn, checkpoints):
    fitted_cnn.train()
    fitted_cnn.first_norm.eval()
    before = fitted_cnn.stem_norm.running_mean.clone()
    Judge(bench_of(fitted_cnn, digits, checkpoints)).score(fitted_cnn)
    # The bench's own teacher is a copy, made after the modes were set here.
    assert fitted_cnn.stem_norm.training
    assert not fitted_cnn.first_norm.training
    assert torch.equal(fitted_cnn.stem_norm.running_mean, before)
