"""Two bundles, figure by figure: what got worse by more than is tolerated, and what was changed.

A figure with an interval has regressed only if the intervals lie apart; a figure that was known
in A and is not in B has regressed, since nobody can say that it has not.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgekit.bundle.manifest import Evidence, Manifest, StageRecord
from edgekit.bundle.verify import verify_bundle
from edgekit.core.codec import nearest, to_plain
from edgekit.core.errors import InputError
from edgekit.core.figure import Figure, Place
from edgekit.core.verdict import Sense
from edgekit.evaluate.builtin import BUILTINS
from edgekit.flow.results import CompareLine, Comparison

DEFAULT_PERCENT = 5.0
SCORES = ("metric_float", "metric_compressed")
DROP = "metric_drop"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tolerance:
    """How much worse a figure may be, in percent of its value in A; by name where it is named."""

    percent: float = DEFAULT_PERCENT
    by_name: Mapping[str, float] = field(default_factory=dict)

    def share(self, name: str) -> float:
        """The tolerated share of one figure."""
        return self.by_name.get(name, self.percent) / 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One of the two bundles."""

    manifest: Manifest
    evidence: Evidence

    @property
    def figures(self) -> dict[str, Figure]:
        """Its figures by name."""
        return {item.name: item for item in self.evidence.figures}


def compare(
    a: Path,
    b: Path,
    *,
    tolerance_percent: float = DEFAULT_PERCENT,
    by_name: Mapping[str, float] | None = None,
) -> Comparison:
    """Verify both bundles (folders or zips) and compare them.

    tolerance_percent: how much worse a figure may be; by_name: for single figures.
    Raises: BundleError when one is not whole; InputError for a tolerance of an unknown figure.
    """
    tolerance = Tolerance(percent=tolerance_percent, by_name=by_name or {})
    return compare_sides(_read_side(a), _read_side(b), tolerance)


def _read_side(path: Path) -> Side:
    bundle = verify_bundle(path)
    return Side(manifest=bundle.manifest, evidence=bundle.evidence)


def compare_sides(a: Side, b: Side, tolerance: Tolerance) -> Comparison:
    """Compare two bundles that were read already."""
    names = list(dict.fromkeys((*a.figures, *b.figures)))
    for name in tolerance.by_name:
        if name not in names:
            raise InputError(f"--tolerance: no figure is called '{name}'{nearest(name, names)}")
    rules = _Rules(a, b, tolerance)
    lines = tuple(
        _compare_line(name, a.figures.get(name), b.figures.get(name), rules) for name in names
    )
    return Comparison(lines=lines, differences=tuple(_differences(a, b)))


class _Rules:
    """Which figures are judged, and which way each is better.

    Limits say it of their figures and the metric says it of scores. Similarity is better when
    more; bytes, milliseconds, drops, errors and ratios when less.
    """

    def __init__(self, a: Side, b: Side, tolerance: Tolerance) -> None:
        limits = (*a.manifest.limits, *b.manifest.limits)
        self._limits = {item.figure: 1 if item.sense is Sense.AT_LEAST else -1 for item in limits}
        self._score = _metric_direction(a) or _metric_direction(b)
        self.tolerance = tolerance

    def direction(self, name: str) -> int:
        """1 where more is better, -1 where less is, 0 where nobody knows."""
        if name in self._limits:
            return self._limits[name]
        if name in SCORES:
            return self._score
        return 1 if name.endswith("_cosine") else -1

    def is_judged(self, figure: Figure) -> bool:
        """Whether a change of this figure may be a regression.

        Not so for what says nothing of the artifact (the float one's bytes and times), for errors
        of single samples, and for a host's milliseconds, which wander from hour to hour by more
        than their interval; a tolerance or a limit of its own makes any figure count.
        """
        name = figure.name
        if name in self._limits or name in self.tolerance.by_name or name in (*SCORES, DROP):
            return True
        if "_float" in name:
            return False
        is_steady_time = figure.unit == "ms" and figure.place is not Place.HOST
        return is_steady_time or figure.unit == "bytes" or name.endswith("_ratio")


def _metric_direction(side: Side) -> int:
    """From the metric's name, else from the build itself: a drop above 0 is a worse score."""
    known = BUILTINS.get(side.manifest.metric.partition(":")[0])
    if known is not None:
        return 1 if known.higher_is_better else -1
    # Of adapters, each figure is that of another worst one: the model without any has all three.
    alone = ":none" if f"{DROP}:none" in side.figures else ""
    names = [f"{name}{alone}" for name in (*SCORES, DROP)]
    values = [item.value for name in names if (item := side.figures.get(name)) is not None]
    if len(values) < len((*SCORES, DROP)) or None in values:
        return 0
    reference, candidate, drop = (value or 0.0 for value in values)
    sign = (reference - candidate) * drop
    return (sign > 0) - (sign < 0)


def _compare_line(name: str, a: Figure | None, b: Figure | None, rules: _Rules) -> CompareLine:
    change: float | None = None
    direction = rules.direction(name)
    if a is None or a.value is None:
        is_regression, note = False, "not known in A"
    elif b is None or b.value is None:
        is_regression, note = rules.is_judged(a), "known in A, not in B"
    elif a.unit != b.unit:
        is_regression, note = True, f"{a.unit} in A, {b.unit} in B: not comparable"
    elif direction == 0:
        is_regression, note = False, f"unknown whether more is better; {DROP} judges it"
    else:
        worse_by = direction * (a.value - b.value)
        change = _share(worse_by, a.value)
        is_regression, note = _judge(a, b, worse_by, rules)
    return CompareLine(name=name, a=a, b=b, change=change, is_regression=is_regression, note=note)


def _share(worse_by: float, of: float) -> float | None:
    """A change relative to A; None where A is 0 and B is not."""
    if worse_by == 0:
        return 0.0
    return worse_by / abs(of) if of else None


def _judge(a: Figure, b: Figure, worse_by: float, rules: _Rules) -> tuple[bool, str]:
    """Whether a figure that is worse by so much, in its unit, has regressed, and why (not)."""
    share = rules.tolerance.share(a.name)
    source = _sources(a, b)
    if worse_by <= abs(a.value or 0.0) * share:
        return False, source + _extent(worse_by)
    if not rules.is_judged(a):
        return False, source + f"worse, not judged unless by --tolerance {a.name}=PERCENT"
    if _is_sampled(a, b) and _overlap(a, b):
        return False, source + "worse, but the intervals overlap"
    return True, source + f"worse by more than {share:.1%}"


def _sources(a: Figure, b: Figure) -> str:
    if (a.provenance, a.place) == (b.provenance, b.place):
        return ""
    told = [f"{item.provenance.value} on {item.place.value}" for item in (a, b)]
    return f"{told[0]} in A, {told[1]} in B; "


def _extent(worse_by: float) -> str:
    if worse_by == 0:
        return "same"
    return "better" if worse_by < 0 else "worse within tolerance"


def _is_sampled(a: Figure, b: Figure) -> bool:
    return any(_ends(item)[0] != _ends(item)[1] for item in (a, b))


def _overlap(a: Figure, b: Figure) -> bool:
    (a_low, a_high), (b_low, b_high) = _ends(a), _ends(b)
    return a_low <= b_high and b_low <= a_high


def _ends(figure: Figure) -> tuple[float, float]:
    value = figure.value or 0.0
    low = value if figure.low is None else figure.low
    high = value if figure.high is None else figure.high
    return low, high


def _differences(a: Side, b: Side) -> Iterable[str]:
    """How the two were made and measured differently, and where a stage was not deterministic."""
    if a.manifest.bundle_id == b.manifest.bundle_id:
        yield "the same bundle: bundle_id is equal, so only what was measured can differ"
    if a.evidence.host != b.evidence.host:
        yield "measured on different machines: their times do not compare"
    yield from _unlike(a.manifest, b.manifest)
    for name, (left, right) in _described(a.manifest, b.manifest).items():
        yield from _named_differences(name, left, right)
    stage = first_unstable_stage(a.manifest.lineage.stages, b.manifest.lineage.stages)
    if stage is not None:
        yield f"not deterministic: {stage} (equal inputs, different output)"


def _unlike(a: Manifest, b: Manifest) -> Iterable[str]:
    """What keeps two bundles from being versions of one thing."""
    ours, theirs = ((item.metric, item.lineage.evaluation) for item in (a, b))
    if ours != theirs:
        yield "judged by another metric or on other data: their scores do not compare"
    if _contracts(a).keys() != _contracts(b).keys():
        yield "other inputs or outputs: what runs A does not run B as it is"


def _described(a: Manifest, b: Manifest) -> dict[str, tuple[Any, Any]]:
    """What is worth naming in two manifests, as plain values by name."""
    names = ("name", "device", "target", "metric", "effort", "seed", "waived", "toolchain")
    described = {name: (getattr(a, name), getattr(b, name)) for name in names}
    described["versions"] = (a.versions, b.versions)
    described["lineage"] = (_lineage(a), _lineage(b))
    described["strategy"] = (_steps(a), _steps(b))
    described["limits"] = (_limits(a), _limits(b))
    described["contract"] = (_contracts(a), _contracts(b))
    return described


def _lineage(manifest: Manifest) -> dict[str, str]:
    lineage = manifest.lineage
    sets = ("calibration", "evaluation", "selection", "training", "unlabelled")
    names = ("model", "source", *sets)
    return {**{name: getattr(lineage, name)[:12] for name in names}, **_short(lineage.files)}


def _short(digests: Mapping[str, str]) -> dict[str, str]:
    return {path: digest[:12] for path, digest in digests.items()}


def _steps(manifest: Manifest) -> dict[str, Any]:
    steps = manifest.strategy.steps
    return {
        f"{index}.{step.name}": {"run": step.is_run, **step.settings}
        for index, step in enumerate(steps)
    }


def _limits(manifest: Manifest) -> dict[str, Any]:
    return {
        item.figure: f"{item.sense.value} {item.bound:g} {item.unit}" for item in manifest.limits
    }


def _contracts(manifest: Manifest) -> dict[str, Any]:
    contracts: dict[str, Any] = {}
    for component in manifest.components:
        for given in component.contract.inputs:
            contracts[f"{component.name}.{given.name}"] = to_plain(given)
        for made in component.contract.outputs:
            contracts[f"{component.name}.{made.name}"] = to_plain(made)
    return contracts


def _named_differences(name: str, left: Any, right: Any) -> Iterable[str]:
    """Every place below ``name`` where two plain values differ."""
    if isinstance(left, Mapping) and isinstance(right, Mapping):
        for key in dict.fromkeys((*left, *right)):
            yield from _named_differences(f"{name}.{key}", left.get(key), right.get(key))
    elif left != right:
        yield f"{name}: {_shown(left)} in A, {_shown(right)} in B"


def _shown(value: Any) -> str:
    if value in (None, "", (), [], {}):
        return "nothing"
    if isinstance(value, (list, tuple)):
        return ", ".join(str(item) for item in value)
    return str(value)


def first_unstable_stage(a: tuple[StageRecord, ...], b: tuple[StageRecord, ...]) -> str | None:
    """The first stage that made different things of the same: equal key, other output."""
    outputs = {(item.name, item.key): item.output for item in b}
    for item in a:
        output = outputs.get((item.name, item.key))
        if output is not None and output != item.output:
            return item.name
    return None
