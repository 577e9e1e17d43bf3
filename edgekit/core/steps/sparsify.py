"""Settings of unstructured pruning."""

import re
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from edgekit.core.codec import nearest
from edgekit.core.errors import StepError
from edgekit.core.steps.patterns import check_pattern
from edgekit.core.steps.train import Train

Method = Literal["magnitude", "wanda", "sparsegpt", "rigl"]
Scope = Literal["layer", "erk", "global"]
Schedule = Literal["one-shot", "linear", "cubic"]

DEFAULT_RATIO = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Pattern:
    """At most ``kept`` of each ``group`` weights in a row of inputs are not zero."""

    kept: int
    group: int

    @property
    def sparsity_ratio(self) -> float:
        """The share of zeros that it makes."""
        return 1 - self.kept / self.group


@dataclass(frozen=True, slots=True, kw_only=True)
class Sparsify:
    """Single weights become zero and stay zero.

    sparsity_ratio: the share of zeros in the weights that take part, those that are zero already
    among them; left out it is what the pattern makes, 0.5 without one. method: by size alone
    ("magnitude"), by size times activation ("wanda"), by second order with the remaining weights
    corrected ("sparsegpt"), or dropped and regrown while training ("rigl"). scope: every layer
    gets the same share ("layer"), large ones more ("erk"), or the smallest weights of all layers
    go ("global", magnitude alone). pattern: "" for any place, "2:4" for so many kept of so many in
    a row of inputs. ignore: patterns of module paths that stay dense; the last layer and embeddings
    take part unless they are named here. iterations: prune and retrain in so many rounds. schedule:
    how the share grows over them. is_within_limit: stop at the last round whose metric, on the
    selection data, is inside the profile's limit. recover: the training after each round, with the
    zeros kept (its epochs are shared by all rounds); epochs 0 trains nothing. teacher_weight: share
    of the loss that follows the float model's own outputs. Of "rigl" alone: drop_ratio, the share
    of a layer's weights that the first update moves (it falls to 0 along a cosine), stop_ratio, the
    share of all batches after which nothing moves any more, and update_batches, between two
    updates; 0 takes 100, or fewer where there would be less than ten updates.
    Raises: StepError for a value outside its range, or settings that do not go together.
    """

    sparsity_ratio: float | None = None
    method: Method = "magnitude"
    scope: Scope = "layer"
    pattern: str = ""
    ignore: tuple[str, ...] = ()
    iterations: int = 1
    schedule: Schedule = "cubic"
    is_within_limit: bool = False
    recover: Train = field(default_factory=lambda: Train(epochs=0))
    teacher_weight: float = 0.5
    drop_ratio: float = 0.3
    stop_ratio: float = 0.75
    update_batches: int = 0

    def __post_init__(self) -> None:
        _expect_one_of("method", self.method, get_args(Method))
        _expect_one_of("scope", self.scope, get_args(Scope))
        _expect_one_of("schedule", self.schedule, get_args(Schedule))
        if self.sparsity_ratio is not None:
            ratio = self.sparsity_ratio
            _expect("sparsity_ratio", ratio, 0 < ratio < 1, "above 0 and below 1")
        _expect("iterations", self.iterations, self.iterations >= 1, "1 or more")
        share = self.teacher_weight
        _expect("teacher_weight", share, 0 <= share <= 1, "0 to 1")
        _expect("drop_ratio", self.drop_ratio, 0 < self.drop_ratio < 1, "above 0 and below 1")
        stop = self.stop_ratio
        _expect("stop_ratio", stop, 0 < stop <= 1, "above 0 and at most 1")
        _expect("update_batches", self.update_batches, self.update_batches >= 0, "0 or more")
        for pattern in self.ignore:
            check_pattern("sparsify: ignore", pattern)
        self._check_pattern()
        self._check_method()
        self._check_rounds()

    @property
    def ratio(self) -> float:
        """The share of zeros that is asked for."""
        if self.sparsity_ratio is not None:
            return self.sparsity_ratio
        grouped = self.grouped
        return DEFAULT_RATIO if grouped is None else grouped.sparsity_ratio

    @property
    def grouped(self) -> Pattern | None:
        """The pattern as numbers; None for any place."""
        return parse_pattern(self.pattern) if self.pattern else None

    def _check_pattern(self) -> None:
        pattern = self.grouped
        if pattern is None:
            return
        if self.sparsity_ratio not in (None, pattern.sparsity_ratio):
            raise StepError(
                f"sparsify: sparsity_ratio is {self.sparsity_ratio} and pattern '{self.pattern}' "
                f"makes {pattern.sparsity_ratio:g}; leave one of the two out"
            )
        if self.scope != "layer":
            raise StepError(
                f"sparsify: scope is '{self.scope}' and pattern '{self.pattern}' makes every layer "
                'equally sparse; use scope = "layer"'
            )

    def _check_method(self) -> None:
        if self.scope == "global" and self.method != "magnitude":
            raise StepError(
                f"sparsify: scope is \"global\" and method '{self.method}' compares weights within "
                'a layer only; use scope = "layer" or "erk", or method = "magnitude"'
            )
        if self.method == "rigl" and not self.recover.epochs:
            raise StepError(
                "sparsify: method 'rigl' drops and regrows weights while it trains, and "
                "recover.epochs is 0; set 1 or more, or use another method"
            )

    def _check_rounds(self) -> None:
        if self.method == "rigl" and self.iterations > 1:
            raise StepError(
                f"sparsify: iterations is {self.iterations} and method 'rigl' is as sparse from "
                "the start as at the end; use iterations = 1"
            )
        if self.schedule == "one-shot" and self.iterations > 1:
            raise StepError(
                f"sparsify: iterations is {self.iterations} and schedule 'one-shot' has one round; "
                'use schedule = "linear" or "cubic", or iterations = 1'
            )
        if 0 < self.recover.epochs < self.iterations:
            raise StepError(
                f"sparsify: recover.epochs is {self.recover.epochs} for {self.iterations} rounds; "
                "give each round an epoch or more, or 0 to train nothing"
            )


def parse_pattern(text: str) -> Pattern:
    """A pattern such as "2:4" (2 kept of 4).

    Raises: StepError for anything else, and for a pattern that keeps nothing or everything.
    """
    found = re.fullmatch(r"(\d{1,4}):(\d{1,4})", text)
    if found is None:
        raise StepError(
            f"sparsify: pattern is '{text}'; write how many are kept of how many: \"2:4\""
        )
    kept, group = int(found[1]), int(found[2])
    if not 1 <= kept < group:
        raise StepError(
            f"sparsify: pattern '{text}' keeps {kept} of {group}; it must keep 1 or more, and "
            "fewer than all"
        )
    return Pattern(kept=kept, group=group)


def _expect(name: str, value: float, is_allowed: bool, allowed: str) -> None:
    if not is_allowed:
        raise StepError(f"sparsify: {name} is {value}; it must be {allowed}; change the setting")


def _expect_one_of(name: str, value: Any, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise StepError(f"sparsify: {name} is '{value}'{nearest(str(value), allowed)}")
