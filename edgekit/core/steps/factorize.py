"""Settings of low-rank factorization."""

from dataclasses import dataclass, field
from typing import Literal

from edgekit.core.errors import StepError
from edgekit.core.steps.patterns import check_pattern
from edgekit.core.steps.train import Train

Method = Literal["svd", "tucker"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Factorize:
    """Linear layers and convolutions become products of thinner ones.

    methods: "svd" for linear layers and 1x1 convolutions, "tucker" for other convolutions.
    is_whitened: errors are weighed by what the layer really gets as input (calibration data).
    ranks: "energy" keeps at least ``energy`` of each layer's squared singular values, "ratio" keeps
    ``ratio`` of each full rank, "search" leaves ``parameter_ratio`` of all parameters (or
    ``keep_bytes`` of float weights, where it is not 0) and takes away where it hurts least. Layers
    that would not get both smaller and cheaper stay whole. ignore: patterns of module paths.
    teacher_weight: share of the loss that follows the float model's own outputs. recover: training
    afterwards; epochs 0 trains nothing.
    Raises: StepError for a value outside its range, naming the setting.
    """

    methods: tuple[Method, ...] = ("svd", "tucker")
    is_whitened: bool = True
    ranks: Literal["energy", "ratio", "search"] = "energy"
    energy: float = 0.98
    ratio: float = 0.5
    parameter_ratio: float = 0.5
    keep_bytes: int = 0
    ignore: tuple[str, ...] = ()
    teacher_weight: float = 0.5
    recover: Train = field(default_factory=lambda: Train(epochs=0))

    def __post_init__(self) -> None:
        _expect("methods", self.methods, bool(self.methods), "'svd', 'tucker' or both")
        for name in self.methods:
            _expect("methods", name, name in ("svd", "tucker"), "'svd', 'tucker' or both")
        _expect(
            "ranks",
            self.ranks,
            self.ranks in ("energy", "ratio", "search"),
            "one of 'energy', 'ratio' and 'search'",
        )
        _expect("energy", self.energy, 0 < self.energy <= 1, "above 0 and at most 1")
        _expect("ratio", self.ratio, 0 < self.ratio < 1, "above 0 and below 1")
        kept = self.parameter_ratio
        _expect("parameter_ratio", kept, 0 < kept < 1, "above 0 and below 1")
        _expect("keep_bytes", self.keep_bytes, self.keep_bytes >= 0, "0 (no limit) or more")
        if self.keep_bytes and self.ranks != "search":
            raise StepError(
                f"factorize: keep_bytes is {self.keep_bytes} and ranks is '{self.ranks}'; only "
                'ranks = "search" works towards a size'
            )
        share = self.teacher_weight
        _expect("teacher_weight", share, 0 <= share <= 1, "0 to 1")
        for pattern in self.ignore:
            check_pattern("factorize: ignore", pattern)


def _expect(name: str, value: object, is_allowed: bool, allowed: str) -> None:
    if not is_allowed:
        raise StepError(f"factorize: {name} is {value}; it must be {allowed}; change the setting")
