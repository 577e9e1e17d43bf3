from statistics import NormalDist

import pytest

from edgekit.core.precision import NF4_LEVELS

# Dettmers et al. 2023, appendix E and their published code: quantiles of N(0, 1) from this
# probability to a half, eight above zero and seven below it, over the largest.
OFFSET = 0.9677083


def quantiles(count):
    step = (OFFSET - 0.5) / (count - 1)
    return [NormalDist().inv_cdf(OFFSET - step * place) for place in range(count - 1)]


def test_nf4_levels_are_the_quantiles_of_the_normal_distribution():
    above, below = quantiles(9), quantiles(8)
    levels = sorted([*above, 0.0, *(-value for value in below)])
    # The published levels are float32 numbers.
    assert pytest.approx([value / max(levels) for value in levels], abs=2e-7) == list(NF4_LEVELS)
