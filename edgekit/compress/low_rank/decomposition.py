"""One layer taken apart: what each rank would cost and lose, and the chain that it becomes."""

from dataclasses import dataclass

from torch import Tensor, nn

from edgekit.compress.low_rank.ranks import Ranks, tail_energies
from edgekit.compress.low_rank.svd import Basis, factors, matrix_basis, smaller_side
from edgekit.compress.low_rank.tucker import mode_energies, tucker2, weighed_tucker2
from edgekit.compress.moments import Side, Traffic
from edgekit.compress.thin_layers import (
    Cost,
    Method,
    bias_of,
    matrix_of,
    method_of,
    svd_chain,
    svd_cost,
    tucker_chain,
    tucker_cost,
    weight_of,
    whole_cost,
)

_TINY = 1e-30


@dataclass(frozen=True, slots=True, kw_only=True)
class Decomposition:
    """A layer with its spectrum.

    energies: of each mode, falling: one for a matrix, those of the output and the input channels
    for a kernel. traffic: what passes through; with moments where the spectrum is weighed by them.
    """

    layer: nn.Module
    method: Method
    energies: tuple[Tensor, ...]
    traffic: Traffic
    basis: Basis | None = None

    @property
    def full(self) -> Ranks:
        """The largest ranks."""
        return tuple(len(item) for item in self.energies)

    @property
    def whole(self) -> Cost:
        """What the layer takes as it is."""
        return whole_cost(self.layer, self.traffic.positions_out)

    def cost(self, ranks: Ranks) -> Cost:
        """What it would take with these ranks."""
        if self.method == "svd":
            return svd_cost(self.layer, ranks[0], self.traffic.positions_out)
        passing = self.traffic.positions_in, self.traffic.positions_out
        return tucker_cost(_convolution(self.layer), (ranks[0], ranks[1]), *passing)

    def is_gain(self, ranks: Ranks) -> bool:
        """Whether it would be both smaller and cheaper."""
        return self.cost(ranks).is_below(self.whole)

    def lost(self, ranks: Ranks) -> float:
        """Share of the energy that is lost at these ranks; exact for a matrix, else a bound."""
        shares = (
            (tail_energies(item)[rank] / item.sum().clamp_min(_TINY)).item()
            for item, rank in zip(self.energies, ranks, strict=True)
        )
        return min(1.0, sum(shares))

    def make(self, ranks: Ranks) -> nn.Sequential:
        """The chain of thinner layers."""
        if self.method == "tucker":
            return self._make_tucker((ranks[0], ranks[1]))
        matrix = matrix_of(self.layer).cpu()
        basis = self.basis
        if basis is None:
            raise AssertionError(self.method)
        left, right = factors(matrix, basis, ranks[0])
        return svd_chain(self.layer, left, right, self._shifted_bias(basis, ranks[0]))

    def _make_tucker(self, ranks: tuple[int, int]) -> nn.Sequential:
        kernel = weight_of(self.layer).double().cpu()
        moments = self.traffic.moments
        if not moments or not self.traffic.power:
            found = tucker2(kernel, ranks)
        else:
            found = weighed_tucker2(
                kernel, ranks, inputs=moments["inputs"], outputs=moments["outputs"]
            )
        return tucker_chain(_convolution(self.layer), found.out, found.core, found.inner)

    def _shifted_bias(self, basis: Basis, rank: int) -> Tensor | None:
        """The bias that keeps the mean of the outputs: b + (W - W_r) times the mean input."""
        bias = bias_of(self.layer)
        if bias is None or not self.traffic.moments:
            return None
        mean = self.traffic.moments[basis.side].mean
        lost = mean - basis.decode[:, :rank] @ (basis.encode[:rank] @ mean)
        if basis.side == "inputs":
            lost = matrix_of(self.layer).double().cpu() @ lost
        return bias.double().cpu() + lost


def decompose(layer: nn.Module, traffic: Traffic) -> Decomposition:
    """The spectrum of a layer, weighed by the moments in its traffic if there are any."""
    method = method_of(layer)
    if method == "svd":
        seen = traffic if traffic.moments else None
        matrix = matrix_of(layer).double().cpu()
        is_centred = bias_of(layer) is not None
        basis = matrix_basis(matrix, seen, is_centred=is_centred)
        energies = basis.energies[: min(matrix.shape)]
        return Decomposition(
            layer=layer, method=method, energies=(energies,), traffic=traffic, basis=basis
        )
    moments = traffic.moments if traffic.power else {}
    found = mode_energies(
        weight_of(layer).double().cpu(),
        inputs=moments.get("inputs"),
        outputs=moments.get("outputs"),
    )
    return Decomposition(layer=layer, method=method, energies=found, traffic=traffic)


def sides_of(layer: nn.Module) -> dict[Side, int]:
    """The moments that a layer's spectrum is weighed by, and how many channels each has."""
    out_size = matrix_of(layer).shape[0]
    if method_of(layer) == "tucker":
        return {"inputs": weight_of(layer).shape[1], "outputs": out_size}
    side = smaller_side(matrix_of(layer))
    return {side: out_size if side == "outputs" else matrix_of(layer).shape[1]}


def _convolution(layer: nn.Module) -> nn.Conv1d | nn.Conv2d:
    if not isinstance(layer, (nn.Conv1d, nn.Conv2d)):
        raise AssertionError(type(layer).__name__)  # method_of gives "tucker" to no other
    return layer
