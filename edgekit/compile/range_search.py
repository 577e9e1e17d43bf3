"""Where a range of activations is best cut, from the histogram of a tensor's values.

Each function gives (low, high) with low <= 0 <= high. Exact zeros count only where it is said:
every grid holds zero, so they cost nothing wherever a range ends.
"""

import numpy as np
from numpy.typing import NDArray

from edgekit.compile.histogram import SIDE_BINS, Histogram

Floats = NDArray[np.float64]
Range = tuple[float, float]
# Shares of the extremes that are tried as ends of a range.
_SHARES = np.arange(2, 101) / 100
# What a bin without values counts as where distributions are compared: a ten-thousandth of one.
_SMOOTHING = 1e-4
_SWEEPS = 2


def percentile_range(histogram: Histogram, percentile: float) -> Range:
    """The range that leaves (100 - percentile) percent of all values outside, half at either end.

    Zeros count. Within a bin values are taken to lie evenly.
    """
    # What is exactly zero lies between the bins on both sides of it.
    counts = np.insert(histogram.counts.astype(np.float64), SIDE_BINS, histogram.zeros)
    edges = np.insert(histogram.edges, SIDE_BINS, 0.0)
    shares = np.concatenate([[0.0], np.cumsum(counts) / counts.sum()])
    outside = (100 - percentile) / 200
    low = _first_reaching(shares, edges, outside)
    high = -_first_reaching(1 - shares[::-1], -edges[::-1], outside)
    return min(max(low, histogram.low), 0.0), max(min(high, histogram.high), 0.0)


def _first_reaching(shares: Floats, edges: Floats, share: float) -> float:
    """The value below which there is this share of all."""
    last = int(np.searchsorted(shares, share, side="right")) - 1
    if last >= len(shares) - 1:
        return float(edges[-1])
    part = (share - shares[last]) / (shares[last + 1] - shares[last])
    return float(edges[last] + part * (edges[last + 1] - edges[last]))


def least_error_range(histogram: Histogram, steps: int) -> Range:
    """The range whose steps change the values least, by the sum of squares.

    What is inside is rounded (a twelfth of a step squared each), what is outside is cut off.
    Source: Nagel et al. 2021, arXiv:2106.08295, section 3.1, mean squared error.
    """
    bottoms, below, cut_low = _cuts(histogram, -1)
    tops, above, cut_high = _cuts(histogram, 1)
    inside = histogram.counts.sum() - below[:, None] - above[None, :]
    step = (tops[None, :] + bottoms[:, None]) / steps
    error = cut_low[:, None] + cut_high[None, :] + inside * step**2 / 12
    row, column = np.unravel_index(int(np.argmin(error)), error.shape)
    return -float(bottoms[row]), float(tops[column])


def _cuts(histogram: Histogram, sign: int) -> tuple[Floats, Floats, Floats]:
    """Candidates for one end, as magnitudes; how many values lie past each, their squared excess.

    A side without values has the one candidate 0.
    """
    extreme = max(sign * (histogram.high if sign > 0 else histogram.low), 0.0)
    ends = extreme * _SHARES if extreme else np.zeros(1)
    counts = histogram.counts[SIDE_BINS:] if sign > 0 else histogram.counts[SIDE_BINS - 1 :: -1]
    centres = histogram.centres[SIDE_BINS:]
    start = np.searchsorted(centres, ends)
    # Sums of 1, x and x * x over all bins past each candidate.
    count, total, squares = (
        np.append(np.cumsum((counts * centres**power)[::-1])[::-1], 0.0)[start]
        for power in (0, 1, 2)
    )
    return ends, count, squares - 2 * ends * total + ends**2 * count


def entropy_range(histogram: Histogram, levels: int) -> Range:
    """The range whose levels keep the distribution of the values best, by relative entropy.

    Bottom and top are cut in turn. A symmetric range is that of the folded histogram.
    Source: Migacz 2017, "8-bit Inference with TensorRT" (GTC 2017, S7310), slides 28 to 39, there
    for a symmetric range; here each end moves by itself.
    """
    if not histogram.width:
        return 0.0, 0.0
    bottoms, tops = _bin_ends(histogram, -1), _bin_ends(histogram, 1)
    bottom, top = bottoms[-1], tops[-1]
    for _ in range(_SWEEPS):
        before = (bottom, top)
        top = min(tops, key=lambda end: _divergence(histogram, bottom, end, levels))
        bottom = min(bottoms, key=lambda end: _divergence(histogram, end, top, levels))
        if (bottom, top) == before:
            break
    low = max((bottom - SIDE_BINS) * histogram.width, min(histogram.low, 0.0))
    return low, min((top - SIDE_BINS) * histogram.width, max(histogram.high, 0.0))


def _bin_ends(histogram: Histogram, sign: int) -> list[int]:
    """Places between bins that may end a range on one side of zero, the outermost last."""
    extreme = max(sign * (histogram.high if sign > 0 else histogram.low), 0.0)
    bins = np.unique(np.ceil(_SHARES * extreme / histogram.width).astype(int))
    return [SIDE_BINS + sign * int(item) for item in bins] if extreme else [SIDE_BINS]


def _divergence(histogram: Histogram, start: int, stop: int, levels: int) -> float:
    """Relative entropy of the values, cut off to these bins, to what the levels make of them."""
    if stop <= start:
        return np.inf
    inside = histogram.counts[start:stop].astype(np.float64)
    ours = inside.copy()
    ours[0] += histogram.counts[:start].sum()
    ours[-1] += histogram.counts[stop:].sum()
    level = np.arange(len(inside)) * levels // len(inside)
    # What falls on a level is spread evenly over those of its bins that had any value.
    has_value = inside > 0
    mass = np.bincount(level, inside, levels)
    width = np.bincount(level, has_value, levels)
    theirs = np.where(has_value, (mass / np.maximum(width, 1))[level], 0.0)
    return _relative_entropy(_smoothed(ours), _smoothed(theirs))


def _smoothed(masses: Floats) -> Floats:
    """As a distribution without zeros, which have no logarithm."""
    filled = np.where(masses == 0, _SMOOTHING, masses)
    shares: Floats = filled / filled.sum()
    return shares


def _relative_entropy(ours: Floats, theirs: Floats) -> float:
    return float((ours * np.log(ours / theirs)).sum())
