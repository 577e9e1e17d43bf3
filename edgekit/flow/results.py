"""What a build, a plan, a fit and a comparison are asked with, and what they answer."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from edgekit.bundle.manifest import Evidence, Manifest
from edgekit.core.facts import ModelFacts
from edgekit.core.figure import Figure
from edgekit.core.profile import DeviceProfile
from edgekit.core.sensitivity import Sensitivity
from edgekit.core.strategy import Override, Strategy
from edgekit.core.target import Support, Target
from edgekit.core.verdict import Standing, Verdict

Effort = Literal["quick", "standard", "max"]
FitOutcome = Literal["fits", "may not fit", "does not fit", "not supported"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildOptions:
    """How a build is to be done.

    target: by name; None takes the profile's. out: where the bundle goes; None is
    ``NAME-DEVICE.edgekit`` in the working directory. allow: limits waived by name. require:
    the least standing that is not an error. limits: bounds that replace the profile's, by figure.
    overrides: other precisions for layers by pattern. settings: values that replace those of a
    step, as ``{"quantize": {"activations": "static"}}``. is_refreshed: ignore cached stages.
    """

    device: str
    target: str | None = None
    out: Path | None = None
    effort: Effort = "quick"
    seed: int = 0
    is_forced: bool = False
    is_refreshed: bool = False
    is_strict: bool = False
    is_packed: bool = False
    allow: tuple[str, ...] = ()
    require: Literal["proven", "candidate"] = "candidate"
    limits: Mapping[str, float] = field(default_factory=dict)
    overrides: tuple[Override, ...] = ()
    settings: Mapping[str, Mapping[str, object]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerSize:
    """The bytes that one layer's weights take in the artifact that ships."""

    layer: str
    bytes: int
    dtype: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StageLine:
    """One stage of a build: whether the cache answered it, and how long it took."""

    name: str
    is_reused: bool
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class StepDetail:
    """What a step on the module tells of itself, as plain values.

    points: every point on its way (a round of pruning, an epoch), the kept one marked. values: its
    own figures, such as what went from which layer.
    """

    name: str
    points: tuple[Mapping[str, Any], ...]
    values: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildResult:
    """A finished build; ``bundle`` is None when the verdict refused it.

    report: the folder beside the bundle that keeps the tensor map and this report. steps: those on
    the module, in detail.
    """

    verdict: Verdict
    manifest: Manifest
    evidence: Evidence
    bundle: Path | None
    bundle_id: str
    report: Path | None
    stages: tuple[StageLine, ...]
    largest_layers: tuple[LayerSize, ...]
    steps: tuple[StepDetail, ...]
    advice: tuple[str, ...]
    seconds: float

    @property
    def standing(self) -> Standing:
        """Proven, candidate or refused."""
        return self.verdict.standing


@dataclass(frozen=True, slots=True, kw_only=True)
class SupportLine:
    """How one operator of the model is taken by one target."""

    operator: str
    count: int
    module_paths: tuple[str, ...]
    target: str
    support: Support
    note: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanResult:
    """A dry run: what a build would do and what it would probably give."""

    profile: DeviceProfile
    target: Target
    facts: ModelFacts
    strategy: Strategy
    support: tuple[SupportLine, ...]
    estimates: tuple[Figure, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SensitivityResult:
    """What the layers of a float model cost at fewer bits.

    has_selection: the metric was taken on selection data; else on the calibration data.
    """

    name: str
    device: str
    target: str
    sensitivity: Sensitivity
    has_selection: bool
    is_reused: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class FitLine:
    """One profile against one model, from estimates alone.

    outcome: "fits" where the whole interval of every estimate is inside its limit, "does not fit"
    where all of one is outside, "may not fit" where one straddles its limit and none is outside.
    """

    device: str
    title: str
    target: str
    outcome: FitOutcome
    reason: str
    estimates: tuple[Figure, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CompareLine:
    """One figure of two bundles; ``change`` is relative, B against A, positive is worse."""

    name: str
    a: Figure | None
    b: Figure | None
    change: float | None
    is_regression: bool
    note: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Two bundles, figure by figure, and what differs in how they were made."""

    lines: tuple[CompareLine, ...]
    differences: tuple[str, ...]

    @property
    def has_regressed(self) -> bool:
        """Whether any figure got worse by more than the tolerance."""
        return any(line.is_regression for line in self.lines)
