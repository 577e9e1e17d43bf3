import numpy as np
import pytest
from scipy import stats

from edgekit.evaluate.quantiles import median_ranks, normal_quantile, student_quantile


def test_normal_quantiles_equal_scipys():
    for p in (0.001, 0.025, 0.5, 0.975):
        assert normal_quantile(p) == pytest.approx(stats.norm.ppf(p), rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("freedom", [1, 2, 3, 7, 19, 199, 10_000])
@pytest.mark.parametrize("p", [0.5, 0.9, 0.975, 0.9995])
def test_student_quantiles_equal_scipys(p, freedom):
    assert student_quantile(p, freedom) == pytest.approx(
        stats.t.ppf(p, freedom), rel=1e-6, abs=1e-9
    )


def test_student_refuses_what_it_cannot():
    for p, freedom in ((0.4, 3), (1.0, 3), (0.9, 0)):
        with pytest.raises(ValueError, match="no t quantile"):
            student_quantile(p, freedom)


@pytest.mark.parametrize("count", [6, 7, 20, 100, 101, 501, 2000])
@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_median_ranks_are_the_narrowest_with_the_coverage(count, confidence):
    low, high = median_ranks(count, confidence)
    assert high == count - 1 - low
    # The median lies between the order statistics unless at most `low` values fall on one side.
    assert 1 - 2 * stats.binom.cdf(low, count, 0.5) >= confidence - 1e-12
    assert 1 - 2 * stats.binom.cdf(low + 1, count, 0.5) < confidence


def test_median_interval_covers_a_skewed_median():
    generator = np.random.default_rng(0)
    low, high = median_ranks(60)
    values = np.sort(generator.lognormal(size=(4000, 60)), axis=1)
    covered = np.mean((values[:, low] <= 1.0) & (values[:, high] >= 1.0))
    # 4,000 draws have a standard error of 0.35 points at 95%.
    assert 0.94 <= covered <= 0.98


def test_too_few_values_enclose_no_median():
    with pytest.raises(ValueError, match="5 values cannot enclose"):
        median_ranks(5)
