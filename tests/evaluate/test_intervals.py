import math

import numpy as np
import pytest
from scipy import stats

from edgekit.evaluate.intervals import (
    bca,
    jackknife,
    mean_interval,
    no_change,
    ratio_interval,
    tango,
    wilson,
)


def test_tango_gives_the_published_interval():
    # Airway hyper-responsiveness before and after transplantation (Bentur 2009), cells 1, 1, 7, 12:
    # Fagerland, Lydersen & Laake 2014, doi:10.1002/sim.6148, table of intervals: -0.517 to -0.026.
    found = tango(1, 7, 21)
    assert found.value == pytest.approx(-6 / 21)
    assert (round(found.low, 3), round(found.high, 3)) == (-0.517, -0.026)


def quartic_roots(lost, won, count):
    """Tango's bounds as roots of the quartic of Yang, Sun & Hardin 2013, doi:10.1002/sim.5594."""
    g, d, s = stats.norm.ppf(0.975) ** 2, lost - won, lost + won
    roots = np.roots(
        [
            count**2 * (count / g + 1) ** 2,
            -count * d * (count / g + 1) * (4 * count / g + 1),
            2 * count * d**2 * (3 * count / g + 2) / g - count**2 * (s / g + 1),
            count * d * (2 * s / g + 1) - d**3 * (4 * count / g + 1) / g,
            d**2 * (d**2 / g - s) / g,
        ]
    )
    real = roots[np.abs(roots.imag) < 1e-7].real
    return real.min(), real.max()


@pytest.mark.parametrize(
    ("lost", "won", "count"),
    [(40, 20, 160), (30, 12, 2000), (0, 1, 44), (2, 12, 50), (5, 5, 100), (1, 0, 10_000)],
)
def test_tango_agrees_with_its_closed_form(lost, won, count):
    found, (low, high) = tango(lost, won, count), quartic_roots(lost, won, count)
    assert found.low == pytest.approx(low, abs=1e-9)
    assert found.high == pytest.approx(high, abs=1e-9)


def test_tango_without_a_change_is_as_wide_as_the_samples_leave_it():
    z = stats.norm.ppf(0.975)
    for count in (1, 10, 200, 2000):
        found = tango(0, 0, count)
        assert found.high == pytest.approx(z**2 / (count + z**2))
        assert found.low == pytest.approx(-found.high)


def test_tango_at_the_extremes_stays_inside_and_turns_with_its_arguments():
    assert tango(5, 0, 5).high == pytest.approx(1.0)
    one, other = tango(9, 3, 70), tango(3, 9, 70)
    assert one.low == pytest.approx(-other.high)


@pytest.mark.parametrize(
    ("count", "loses", "wins"), [(100, 0.05, 0.05), (200, 0.04, 0.02), (1000, 0.01, 0.004)]
)
def test_tango_covers_the_true_difference(count, loses, wins):
    generator = np.random.default_rng(1)
    drawn = generator.multinomial(count, [loses, wins, 1 - loses - wins], size=1000)
    covered = [
        found.low <= loses - wins <= found.high
        for found in (tango(int(lost), int(won), count) for lost, won, _ in drawn)
    ]
    # 1,000 draws: standard error 0.7 points; score intervals are near nominal, not below by 2.
    assert 0.93 <= np.mean(covered) <= 0.985


@pytest.mark.parametrize(("right", "count"), [(0, 10), (10, 10), (48, 148), (1999, 2000)])
def test_wilson_equals_scipys(right, count):
    known = stats.binomtest(right, count).proportion_ci(method="wilson")
    found = wilson(right, count)
    assert (found.low, found.high) == pytest.approx((known.low, known.high), abs=1e-12)


def test_bca_agrees_with_scipys_bootstrap():
    values = np.random.default_rng(2).lognormal(size=150)
    known = stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, rng=np.random.default_rng(3)
    ).confidence_interval
    low, high = bca(values, np.ones_like(values), seed=4, resamples=20_000)
    width = known.high - known.low
    # Both draw 20,000: their quantiles wander by about a hundredth of the width.
    assert low == pytest.approx(known.low, abs=0.03 * width)
    assert high == pytest.approx(known.high, abs=0.03 * width)


def test_bca_of_a_ratio_agrees_with_scipys():
    generator = np.random.default_rng(5)
    weights = generator.gamma(3.0, size=120)
    values = weights * 0.1 + generator.normal(0, 0.2, 120)

    def ratio(x, w, axis=-1):
        return x.sum(axis=axis) / w.sum(axis=axis)

    known = stats.bootstrap(
        (values, weights), ratio, paired=True, n_resamples=20_000, rng=np.random.default_rng(6)
    ).confidence_interval
    low, high = bca(values, weights, seed=7, resamples=20_000)
    width = known.high - known.low
    assert low == pytest.approx(known.low, abs=0.03 * width)
    assert high == pytest.approx(known.high, abs=0.03 * width)


@pytest.mark.parametrize("count", [10, 60])
def test_mean_intervals_cover_the_true_mean(count):
    generator = np.random.default_rng(8)
    covered = []
    for seed in range(400):
        found = mean_interval(generator.normal(1.0, 2.0, count), scale=1.0, seed=seed)
        covered.append(found.low <= 1.0 <= found.high)
    # 400 draws: standard error 1.1 points.
    assert 0.92 <= np.mean(covered) <= 0.99


def test_skewed_differences_are_covered_nearly_as_they_should():
    generator = np.random.default_rng(9)
    covered = []
    for seed in range(400):
        found = mean_interval(generator.exponential(1.0, 80), scale=1.0, seed=seed)
        covered.append(found.low <= 1.0 <= found.high)
    assert 0.91 <= np.mean(covered) <= 0.99


def test_the_same_seed_gives_the_same_interval_and_another_does_not():
    values = np.random.default_rng(10).normal(size=50)
    assert mean_interval(values, scale=1, seed=1) == mean_interval(values, scale=1, seed=1)
    assert mean_interval(values, scale=1, seed=1) != mean_interval(values, scale=1, seed=2)


@pytest.mark.parametrize("values", [[0.0] * 100, [0.5] * 100, [0.0], [1e-17, 0.0, 2e-17]])
def test_equal_values_never_have_zero_width(values):
    found = mean_interval(np.array(values), scale=1.0, seed=0)
    # -ln(0.025) = 3.689: the rule of three, two sided.
    half = min(3.6888794541139363 / len(values), 1.0)
    assert found.high - found.value == pytest.approx(half)
    assert found.value - found.low == pytest.approx(half)
    assert "rule of three" in found.method


def test_no_change_keeps_its_promise():
    # If a share p of samples changes, n unchanged ones are seen with probability (1 - p) ** n.
    for count in (50, 1000):
        share = no_change(0.0, count, 1.0).high
        assert (1 - share) ** count <= 0.025


def test_small_samples_get_at_least_students_interval():
    values = np.random.default_rng(11).normal(size=6)
    found = mean_interval(values, scale=1.0, seed=0)
    half = stats.t.ppf(0.975, 5) * values.std(ddof=1) / math.sqrt(6)
    assert found.high >= values.mean() + half - 1e-12
    assert "Student" in found.method


def test_ratio_interval_of_one_sample_is_wide():
    found = ratio_interval(np.array([0.2]), np.array([2.0]), scale=1.0, seed=0)
    assert found.value == pytest.approx(0.1)
    assert found.high == pytest.approx(1.1)


def test_jackknife_of_a_mean_is_students_interval():
    values = np.random.default_rng(12).normal(size=20)
    left_out = np.array([np.delete(values, i).mean() for i in range(20)])
    found = jackknife(float(values.mean()), left_out, count=20, scale=1.0)
    known = stats.t.interval(0.95, 19, values.mean(), stats.sem(values))
    assert (found.low, found.high) == pytest.approx(known, rel=1e-6)


def test_jackknife_without_variation_or_blocks():
    assert "rule of three" in jackknife(0.5, np.full(20, 0.5), count=200, scale=1.0).method
    with pytest.raises(ValueError, match="two blocks"):
        jackknife(0.5, np.array([0.5]), count=200, scale=1.0)


def test_memory_of_the_bootstrap_does_not_grow_with_the_samples():
    import tracemalloc

    def peak(count):
        values = np.random.default_rng(0).normal(size=count)
        tracemalloc.start()
        bca(values, np.ones_like(values), seed=0, resamples=400)
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    # 8 bytes of index and twice 8 of values, two million at a time, whatever the count.
    assert peak(100_000) < 1.3 * peak(20_000) + 10e6
