import math

import numpy as np
import pytest
import torchmetrics
from scipy import stats

from edgekit.core.errors import WorkloadError
from edgekit.core.figure import Figure, Place, Provenance
from edgekit.core.verdict import EvidenceKind, Limit, Sense, Status, judge
from edgekit.evaluate.intervals import tango
from edgekit.evaluate.metrics import resolve_metric
from edgekit.evaluate.paired import PairedBatch, paired_drop, samples_to_decide

RNG = np.random.default_rng(0)
COUNT = 400
LABELS = RNG.integers(0, 5, COUNT)
FLOAT = RNG.normal(size=(COUNT, 5)).astype(np.float32)
FLOAT[np.arange(COUNT), LABELS] += 2
WORSE = FLOAT + RNG.normal(0, 0.8, FLOAT.shape).astype(np.float32)


def batches(reference=FLOAT, candidate=WORSE, target=LABELS, size=64):
    def read():
        for start in range(0, len(reference), size):
            rows = slice(start, start + size)
            yield PairedBatch(
                reference={"o": reference[rows]},
                candidate={"o": candidate[rows]},
                target=None if target is None else target[rows],
            )

    return read


def drop(metric, *args, seed=0, **kwargs):
    return paired_drop(resolve_metric(metric), batches(*args, **kwargs), seed=seed)


def limit(bound, sense=Sense.AT_MOST):
    return Limit(
        figure="metric_drop", sense=sense, bound=bound, unit="points", accepts=(EvidenceKind.HOST,)
    )


def test_top_1_drop_is_in_points_with_tangos_interval_and_flips():
    found = drop("top-1")
    right, still = FLOAT.argmax(1) == LABELS, WORSE.argmax(1) == LABELS
    lost, won = int(np.sum(right & ~still)), int(np.sum(~right & still))
    assert (found.lost, found.won) == (lost, won)
    figure = found.drop
    assert figure.value == pytest.approx(100 * (right.mean() - still.mean()))
    interval = tango(lost, won, COUNT)
    assert (figure.low, figure.high) == pytest.approx((100 * interval.low, 100 * interval.high))
    assert (figure.name, figure.unit, figure.samples) == ("metric_drop", "points", COUNT)
    assert (figure.provenance, figure.place) == (Provenance.MEASURED, Place.HOST)
    assert f"{lost} samples lost and {won} won of {COUNT}" in figure.how
    assert found.reference.value == pytest.approx(100 * right.mean())
    assert found.candidate.value == pytest.approx(100 * still.mean())
    assert [item.name for item in found.figures] == [
        "metric_drop",
        "metric_float",
        "metric_compressed",
    ]


def test_equal_models_drop_nothing_and_still_have_an_interval():
    figure = drop("top-1", FLOAT, FLOAT).drop
    assert figure.value == 0
    assert figure.high == pytest.approx(100 * 3.8415 / (COUNT + 3.8415), rel=1e-4)
    assert judge(limit(0.5), figure).status is Status.INCONCLUSIVE
    assert judge(limit(1.0), figure).status is Status.PASS


def test_a_better_model_has_a_negative_drop():
    assert drop("top-1", WORSE, FLOAT).drop.value == -drop("top-1").drop.value < 0


def test_cosine_drop_is_what_is_missing_to_one_in_points():
    found = drop("cosine", target=None)
    a, b = FLOAT.astype(np.float64), WORSE.astype(np.float64)
    cosines = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    assert found.drop.value == pytest.approx(100 * (1 - cosines.mean()))
    known = stats.bootstrap((1 - cosines,), np.mean, rng=np.random.default_rng(1))
    low, high = known.confidence_interval
    width = 100 * (high - low)
    assert found.drop.low == pytest.approx(100 * low, abs=0.1 * width)
    assert found.drop.high == pytest.approx(100 * high, abs=0.1 * width)
    assert found.candidate.value == pytest.approx(cosines.mean())
    assert found.lost is None


def test_no_interval_of_a_metric_passes_the_metrics_own_range():
    close = FLOAT + RNG.normal(0, 1e-4, FLOAT.shape).astype(np.float32)
    cosine = drop("cosine", FLOAT[:12], close[:12], None)
    for figure in cosine.figures[1:]:
        assert figure.low < figure.value <= figure.high <= 1.0
    assert cosine.reference.value == cosine.reference.high == 1.0
    opposite = drop("cosine", FLOAT[:12], -close[:12], None).candidate
    assert -1.0 <= opposite.low <= opposite.value < opposite.high
    target = FLOAT[:3] + np.float32(1e-6)
    error = drop("mae", FLOAT[:3], close[:3], target)
    assert error.reference.low >= 0.0
    assert error.candidate.low >= 0.0


def test_a_callable_that_says_it_is_bounded_is_cut_at_0_and_1():
    def nearly_right(outputs, targets):
        return np.linspace(0.5, 1.0, len(outputs)) ** 0.01

    free = drop(nearly_right, FLOAT[:3], WORSE[:3], LABELS[:3]).candidate
    nearly_right.is_bounded = True
    cut = drop(nearly_right, FLOAT[:3], WORSE[:3], LABELS[:3]).candidate
    assert free.high > 1.0 == cut.high
    assert (free.value, free.low) == (cut.value, cut.low)


def test_nll_drop_is_in_percent_of_the_float_models_and_says_so():
    figure = drop("nll").drop

    def nll(logits):
        return -np.mean(
            stats.norm.logpdf(0) * 0
            + logits[np.arange(COUNT), LABELS]
            - np.log(np.exp(logits).sum(1))
        )

    before, after = nll(FLOAT.astype(np.float64)), nll(WORSE.astype(np.float64))
    assert figure.value == pytest.approx(100 * (after - before) / before, rel=1e-5)
    assert figure.low < figure.value < figure.high
    assert "percent of the float model's" in figure.how


def test_mae_gets_worse_upwards():
    target = FLOAT + RNG.normal(0, 1, FLOAT.shape)
    figure = drop("mae", FLOAT, WORSE, target).drop
    before, after = np.abs(FLOAT - target).mean(), np.abs(WORSE - target).mean()
    assert figure.value == pytest.approx(100 * (after - before) / before, rel=1e-5)
    assert figure.value > 0


def test_a_reference_of_zero_cannot_be_told_in_percent():
    with pytest.raises(WorkloadError, match="the float model has 0"):
        drop("mae", FLOAT, WORSE, FLOAT)


def test_a_callable_of_zeros_and_ones_is_a_proportion():
    def is_right(outputs, targets):
        return outputs.argmax(1) == targets

    assert drop(is_right).drop.value == pytest.approx(drop("top-1").drop.value)
    assert drop(is_right).drop.unit == "points"


def test_an_error_flag_counts_the_other_way_round():
    def is_wrong(outputs, targets):
        return outputs.argmax(1) != targets

    is_wrong.higher_is_better = False
    found, known = drop(is_wrong), drop("top-1")
    assert found.drop.value == pytest.approx(known.drop.value)
    assert (found.lost, found.won) == (known.lost, known.won)


def test_an_aggregate_metric_gets_a_jackknife_close_to_the_paired_interval():
    def accuracy(outputs, targets):
        return float(np.mean(outputs.argmax(1) == targets))

    accuracy.is_bounded = True
    known = drop("top-1").drop
    for metric in (
        accuracy,
        torchmetrics.classification.MulticlassAccuracy(num_classes=5, average="micro"),
    ):
        found = drop(metric)
        assert found.drop.value == pytest.approx(known.value, abs=1e-4)
        assert "jackknife, 20 blocks" in found.drop.how
        ratio = (found.drop.high - found.drop.low) / (known.high - known.low)
        # 20 blocks estimate a standard deviation to about 16%.
        assert 0.5 < ratio < 2
        assert found.reference.low < found.reference.value < found.reference.high


def test_jackknife_covers_the_true_drop():
    def accuracy(outputs, targets):
        return float(np.mean(outputs == targets))

    accuracy.is_bounded = True
    generator, covered = np.random.default_rng(3), []
    for _ in range(150):
        target = np.ones(200)
        first = generator.random(200) < 0.9
        second = first & (generator.random(200) < 0.95)
        figure = drop(accuracy, first, second, target).drop
        covered.append(figure.low <= 100 * (0.9 - 0.9 * 0.95) <= figure.high)
    # 150 draws: standard error 1.8 points.
    assert np.mean(covered) >= 0.9


def test_an_unbounded_aggregate_is_in_percent():
    def mean_error(outputs, targets):
        return float(np.abs(outputs[:, 0] - targets).mean())

    mean_error.higher_is_better = False
    found = drop(mean_error).drop
    before = np.abs(FLOAT[:, 0] - LABELS).mean()
    after = np.abs(WORSE[:, 0] - LABELS).mean()
    assert found.value == pytest.approx(100 * (after - before) / before, rel=1e-5)
    assert "percent of" in found.how


def test_one_sample_decides_nothing():
    def number(outputs, targets):
        return 0.5

    number.is_bounded = True
    for metric in ("top-1", "cosine", number):
        figure = drop(metric, FLOAT[:1], FLOAT[:1], LABELS[:1]).drop
        assert figure.high - figure.low > 50


def test_nan_scores_name_the_batch():
    def broken(outputs, targets):
        scores = outputs[:, 0] * 1.0
        scores[targets == 3] = np.nan
        return scores

    labels = np.zeros(COUNT, np.int64)
    labels[130] = 3
    with pytest.raises(WorkloadError, match=r"nan for sample 2 of batch 2 \(samples 128 to 191\)"):
        drop(broken, target=labels)


@pytest.mark.parametrize("is_whole", [True, False])
def test_a_metric_that_fails_says_on_which_models_outputs(is_whole):
    def picky(outputs, targets):
        is_worse = not any(np.array_equal(outputs[0], row) for row in FLOAT)
        score = np.nan if is_worse else 0.5
        return score if is_whole else np.full(len(outputs), score)

    with pytest.raises(WorkloadError, match=r"nan .*\(on outputs of the compressed model\)"):
        drop(picky)
    with pytest.raises(WorkloadError, match=r"nan .*\(on outputs of the float model\)"):
        drop(picky, FLOAT + 1)


def test_no_batches_are_an_error():
    with pytest.raises(WorkloadError, match="no samples"):
        paired_drop(resolve_metric("top-1"), list)


def test_the_seed_decides_the_interval():
    assert drop("nll", seed=1).drop == drop("nll", seed=1).drop
    assert drop("nll", seed=1).drop != drop("nll", seed=2).drop


def test_samples_to_decide_follow_the_root_law():
    figure = Figure(
        name="metric_drop",
        value=0.3,
        unit="points",
        provenance=Provenance.MEASURED,
        place=Place.HOST,
        how="",
        low=-0.1,
        high=0.7,
        samples=1000,
    )
    # 0.4 of half width must shrink to 0.2: a quarter of the variance, four times the samples.
    assert samples_to_decide(figure, limit(0.5)) == pytest.approx(4000, abs=1)
    assert samples_to_decide(figure, limit(0.1)) == pytest.approx(4000, abs=1)
    assert samples_to_decide(figure, limit(0.7)) == 1000
    assert samples_to_decide(figure, limit(0.3)) is None
    assert samples_to_decide(figure, limit(0.1, Sense.AT_LEAST)) == pytest.approx(4000, abs=1)


def test_so_many_samples_do_decide():
    loses, wins = 0.012, 0.008

    def figure_of(count):
        lost, won, _ = (round(count * share) for share in (loses, wins, 1))
        interval = tango(lost, won, count).scaled(100)
        return Figure(
            name="metric_drop",
            value=interval.value,
            unit="points",
            how="",
            provenance=Provenance.MEASURED,
            place=Place.HOST,
            low=interval.low,
            high=interval.high,
            samples=count,
        )

    first = figure_of(1000)
    assert judge(limit(0.5), first).status is Status.INCONCLUSIVE
    wanted = samples_to_decide(first, limit(0.5))
    assert judge(limit(0.5), figure_of(math.ceil(wanted * 1.05))).status is Status.PASS
    assert judge(limit(0.5), figure_of(round(wanted * 0.7))).status is Status.INCONCLUSIVE


def test_a_figure_that_was_not_sampled_needs_no_samples():
    figure = Figure(
        name="x", value=1.0, unit="points", provenance=Provenance.CITED, place=Place.NOWHERE, how=""
    )
    assert samples_to_decide(figure, limit(0.5)) is None
