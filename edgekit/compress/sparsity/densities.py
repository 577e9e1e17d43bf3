"""How a share of zeros is spread over layers."""

from collections.abc import Mapping, Sequence

from edgekit.core.errors import StepError


def uniform_ratios(shapes: Mapping[str, Sequence[int]], zeros_ratio: float) -> dict[str, float]:
    """The same share of zeros in every layer."""
    return dict.fromkeys(shapes, zeros_ratio)


def erk_ratios(shapes: Mapping[str, Sequence[int]], zeros_ratio: float) -> dict[str, float]:
    """Shares of zeros by layer that make this share of all weights; large layers get more.

    The density of a layer is proportional to the sum of its axes over their product (Erdos-Renyi
    with kernels); where that is above 1 the layer stays dense and the others make up for it.
    Raises: StepError when the ratio is outside 0..1.
    Source: Evci et al. 2020, arXiv:1911.11134, section 3, (1).
    """
    if not 0 <= zeros_ratio <= 1:
        raise StepError(f"the share of zeros is {zeros_ratio}; it must be 0 to 1")
    sizes = {name: _product(shape) for name, shape in shapes.items()}
    raw = {name: sum(shape) / sizes[name] for name, shape in shapes.items()}
    left = (1 - zeros_ratio) * sum(sizes.values())
    dense: set[str] = set()
    while True:
        sparse = [name for name in shapes if name not in dense]
        room = left - sum(sizes[name] for name in dense)
        scale = room / sum(raw[name] * sizes[name] for name in sparse) if sparse else 0.0
        full = {name for name in sparse if scale * raw[name] > 1}
        if not full:
            return {name: 0.0 if name in dense else 1 - scale * raw[name] for name in shapes}
        dense |= full


def _product(shape: Sequence[int]) -> int:
    size = 1
    for length in shape:
        size *= length
    return size
