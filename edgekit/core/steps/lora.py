"""Settings of low-rank adapters."""

import math
from dataclasses import dataclass, field, replace

from edgekit.core.errors import StepError
from edgekit.core.steps.patterns import check_pattern
from edgekit.core.steps.train import Train


@dataclass(frozen=True, slots=True, kw_only=True)
class Lora:
    """Adapters beside frozen weights, merged into them at the end.

    adapter: a folder in PEFT's format to merge; "" trains new ones here. rank, alpha: of new
    adapters; their product is scaled by alpha / rank. targets: patterns of the module paths that
    get one; none takes every linear layer and 1x1 convolution. teacher_weight: share of the loss
    that follows the float model's own outputs. train: of new adapters; its epochs are 0 where an
    adapter is given.
    Raises: StepError for a value outside its range, naming the setting.
    """

    adapter: str = ""
    rank: int = 8
    alpha: float = 16.0
    targets: tuple[str, ...] = ()
    teacher_weight: float = 0.5
    train: Train = field(default_factory=Train)

    def __post_init__(self) -> None:
        _expect("rank", self.rank, self.rank >= 1, "1 or more")
        is_scale = math.isfinite(self.alpha) and self.alpha > 0
        _expect("alpha", self.alpha, is_scale, "above 0")
        share = self.teacher_weight
        _expect("teacher_weight", share, 0 <= share <= 1, "0 to 1")
        for pattern in self.targets:
            check_pattern("lora: targets", pattern)
        if self.train.rounding is not None:
            raise StepError(
                "lora: train.rounding is set, and adapters are trained as floats beside weights "
                "that stand still; take it out, or recover with the step 'train' or 'distil'"
            )
        if self.adapter and self.targets:
            raise StepError(
                f"lora: targets are given beside the adapter '{self.adapter}', whose own files say "
                "what it adapts; leave one of the two out"
            )
        if self.adapter:
            # Said where the plan looks for it: merging trains nothing and needs no training data.
            object.__setattr__(self, "train", replace(self.train, epochs=0))
        elif not self.train.epochs:
            raise StepError(
                "lora: train.epochs is 0 and there is no adapter to merge, so nothing would "
                "change; give a folder as 'adapter', or train for 1 epoch or more"
            )


def _expect(name: str, value: float, is_allowed: bool, allowed: str) -> None:
    if not is_allowed:
        raise StepError(f"lora: {name} is {value}; it must be {allowed}; change the setting")
