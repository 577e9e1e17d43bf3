"""Settings of structured pruning."""

import math
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from edgekit.core.codec import nearest
from edgekit.core.errors import StepError
from edgekit.core.steps.patterns import check_pattern
from edgekit.core.steps.train import Train

Importance = Literal["l1", "l2", "group-norm", "bn-scale", "taylor", "hessian", "random"]
Goal = Literal["channels", "macs", "parameters", "bytes"]
Unit = Literal["channels", "heads", "ffn", "layers", "embedding"]
PruneSchedule = Literal["one-shot", "linear", "cubic", "per-epoch"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prune:
    """Whole channels, neurons, heads or layers are taken out, and the rest is retrained.

    ratio: the share of ``goal`` that goes, 0..1 (exclusive): of the channels of every layer, of
    all multiply-accumulates, of all parameters, or of the float weights' bytes. keep: instead of a
    ratio, what may stay of the goal, in its own unit (channels, MACs a sample, parameters, bytes);
    0 for none. units: what may go: "channels" (filters and neurons of every kind), "heads" of
    attention (with the keys and values that they share), "ffn" (the neurons between linear layers
    alone), "layers" (``drop_layers`` of them), "embedding" (the width of a transformer itself).
    importance: what tells which units matter least. is_global: units compete across layers for the
    share, else each layer loses it alike. layer_ratios: shares of their own for layers whose
    module path matches a pattern. head_ratio, ffn_ratio: shares of their own for heads and for the
    neurons between linear layers; each brings its unit in. drop_layers: whole layers (of repeated
    blocks) to take out, by number; those that change what goes through them least. depth_ratio:
    instead of a number, the share of those that can go, rounded down; none is not an error where
    other units go too. What the goal counts is the model with all its layers. round_to:
    channel counts stay multiples of it; 0 takes what the target's kernels like. ignore: patterns
    of module paths that stay whole. iterations: prune and retrain in so many rounds. schedule: how
    the share grows over them ("per-epoch": a round an epoch, whatever the iterations).
    is_within_limit: stop at the last round whose metric, on the selection data, is inside the
    limit. recover: the training after each round (its epochs are shared by all rounds); epochs 0
    retrains nothing. teacher_weight: share of the loss that follows the float model's own outputs.
    Raises: StepError for a value outside its range, naming the setting.
    """

    ratio: float = 0.5
    goal: Goal = "channels"
    keep: float = 0.0
    units: tuple[Unit, ...] = ("channels",)
    importance: Importance = "group-norm"
    is_global: bool = False
    layer_ratios: dict[str, float] = field(default_factory=dict)
    head_ratio: float | None = None
    ffn_ratio: float | None = None
    drop_layers: int = 0
    depth_ratio: float = 0.0
    round_to: int = 0
    ignore: tuple[str, ...] = ()
    iterations: int = 1
    schedule: PruneSchedule = "cubic"
    is_within_limit: bool = False
    recover: Train = field(default_factory=Train)
    teacher_weight: float = 0.5

    def __post_init__(self) -> None:
        self._check_names()
        self._check_shares()
        _expect("keep", self.keep, self.keep >= 0, "0 (none) or more")
        for name, least in (("drop_layers", 0), ("round_to", 0), ("iterations", 1)):
            value = getattr(self, name)
            _expect(name, value, value >= least, f"{least} or more")
        for name, patterns in (("ignore", self.ignore), ("layer_ratios", self.layer_ratios)):
            for pattern in patterns:
                check_pattern(f"prune: {name}", pattern)
        if "layers" in self.units and not (self.drop_layers or self.depth_ratio):
            raise StepError(
                "prune: units has 'layers' and drop_layers is 0; set drop_layers to how many "
                "layers go (or depth_ratio to a share of them), or leave 'layers' out"
            )
        if self.drop_layers and self.depth_ratio:
            raise StepError(
                f"prune: drop_layers is {self.drop_layers} and depth_ratio is {self.depth_ratio}; "
                "leave one of them at 0"
            )
        self._check_rounds()

    def _check_rounds(self) -> None:
        if self.schedule == "one-shot" and self.iterations > 1:
            raise StepError(
                f"prune: iterations is {self.iterations} and schedule 'one-shot' has one round; "
                'use schedule = "linear" or "cubic", or iterations = 1'
            )
        if self.schedule != "per-epoch" and 0 < self.recover.epochs < self.iterations:
            raise StepError(
                f"prune: recover.epochs is {self.recover.epochs} for {self.iterations} rounds; "
                "give each round an epoch or more, or 0 to train nothing"
            )
        if self.schedule == "per-epoch" and not self.recover.epochs:
            raise StepError(
                "prune: schedule is 'per-epoch' and recover.epochs is 0; set recover.epochs to how "
                "many rounds there should be, or take 'one-shot'"
            )

    def _check_names(self) -> None:
        _expect_one_of("goal", self.goal, get_args(Goal))
        _expect_one_of("importance", self.importance, get_args(Importance))
        _expect_one_of("schedule", self.schedule, get_args(PruneSchedule))
        for unit in self.units:
            _expect_one_of("units", unit, get_args(Unit))
        if not self.units:
            raise StepError(f"prune: units is empty; name some of {', '.join(get_args(Unit))}")

    def _check_shares(self) -> None:
        is_only_layers = self.units == ("layers",)
        if not self.keep and not is_only_layers:
            _expect("ratio", self.ratio, 0 < self.ratio < 1, "above 0 and below 1")
        shares = {f"layer_ratios['{key}']": value for key, value in self.layer_ratios.items()}
        shares |= {"head_ratio": self.head_ratio or 0.0, "ffn_ratio": self.ffn_ratio or 0.0}
        _expect("depth_ratio", self.depth_ratio, 0 <= self.depth_ratio <= 1, "0 to 1")
        for name, value in shares.items():
            _expect(name, value, 0 <= value < 1, "0 or more and below 1")
        weight = self.teacher_weight
        _expect("teacher_weight", weight, 0 <= weight <= 1, "0 to 1")


def _expect(name: str, value: float, is_allowed: bool, allowed: str) -> None:
    if not (is_allowed and math.isfinite(value)):
        raise StepError(f"prune: {name} is {value}; it must be {allowed}; change the setting")


def _expect_one_of(name: str, value: Any, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise StepError(f"prune: {name} is '{value}'{nearest(str(value), allowed)}")
