"""The artifact is opened and held against what the strategy asked, layer by layer.

Functions over graphs: nothing is believed that a converter said about itself.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace

from edgekit.core.figure import Figure, exact
from edgekit.core.strategy import Quantize
from edgekit.graph.model import Graph
from edgekit.graph.weights import WeightLayer, weight_layers
from edgekit.measure.audit_compute import COMPUTE_KINDS, compute_findings, computing
from edgekit.measure.audit_finding import Finding, Severity, finding_of
from edgekit.measure.audit_match import Pair, match_layers, module_path
from edgekit.measure.audit_subject import (
    COMPUTED_AS_FLOATS,
    MIN_WEIGHT_ELEMENTS,
    STORED_AS,
    STORED_BITS,
    Subject,
)
from edgekit.measure.audit_values import layer_scale_fault, scale_faults, value_fault


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditReport:
    """All findings, the figures, and whether the artifact is what was asked."""

    findings: tuple[Finding, ...]
    figures: tuple[Figure, ...]
    is_accepted: bool


def audit_quantization(
    float_graph: Graph,
    graph: Graph,
    *,
    settings: Quantize,
    tensor_map: Mapping[str, str],
    tolerance: float,
    floats_when_loaded: Collection[int] = (),
) -> AuditReport:
    """What became of every weight and every operator with weights.

    tensor_map: tensor name (of either graph) to module path. tolerance: share of weight elements
    that may stay wider than asked, and that may compute otherwise than asked. floats_when_loaded:
    layers, by their place, that the engine computes in float though the file has them as integers.
    Raises: StepError for an override pattern that is no regular expression.
    """
    float_layers = weight_layers(float_graph)
    layers = [
        replace(layer, is_integer=layer.is_integer and place not in floats_when_loaded)
        for place, layer in enumerate(weight_layers(graph))
    ]
    pairs, missing = match_layers(float_layers, layers, tensor_map)
    subject = Subject(
        graph=graph,
        settings=settings,
        tensor_map=tensor_map,
        pairs=pairs,
        ends={item.key for item in (*float_layers[:1], *float_layers[-1:])},
    )
    findings = [
        *_nothing_changed(subject),
        *_missing(subject, missing),
        *(found for pair in subject.distinct for found in _storage(subject, pair)),
        *compute_findings(subject),
        *_scales(subject),
        *_values(float_graph, subject),
    ]
    return AuditReport(
        findings=tuple(findings),
        figures=_figures(subject, findings),
        is_accepted=_is_accepted(findings, tolerance),
    )


def _is_accepted(findings: list[Finding], tolerance: float) -> bool:
    """Shares of storage and of compute are summed apart: each may use the tolerance once."""
    if any(item.severity == "fatal" for item in findings):
        return False
    counted = [item for item in findings if item.severity == "counted"]
    stored = sum(item.share for item in counted if item.kind not in COMPUTE_KINDS)
    computed = sum(item.share for item in counted if item.kind in COMPUTE_KINDS)
    # Shares are sums of fractions: forgive the last digits.
    return max(stored, computed) <= tolerance + 1e-9


def _nothing_changed(subject: Subject) -> Iterator[Finding]:
    asked = [pair for pair in subject.distinct if subject.wanted(pair.layer) != "float"]
    if subject.distinct and not asked:
        return  # everything was to stay as it is
    known = [pair for pair in asked if pair.float_layer is not None]
    kept = [
        pair
        for pair in known
        if pair.float_layer is not None and pair.layer.precision == pair.float_layer.precision
    ]
    if not asked:
        kind, message = "no weights", "the artifact holds no layer with weights to quantize"
    elif known and len(kept) == len(known) == len(asked):
        stored = ", ".join(sorted({pair.layer.precision for pair in kept}))
        kind = "nothing changed"
        message = (
            f"quantization to {subject.settings.precision} changed nothing: all {len(kept)} layers "
            f"are stored as before ({stored})"
        )
    else:
        return
    yield Finding(
        kind=kind,
        layer="",
        wanted=subject.settings.precision,
        found="no change",
        share=1.0,
        message=message,
        severity="fatal",
    )


def _missing(subject: Subject, missing: list[WeightLayer]) -> Iterator[Finding]:
    large = [item for item in missing if item.elements >= MIN_WEIGHT_ELEMENTS] or missing
    total = subject.total + sum(item.elements for item in large)
    for layer in large:
        name = module_path(layer.tensor.name, subject.tensor_map)
        share = layer.elements / total
        yield Finding(
            kind="missing",
            layer=name,
            wanted=subject.settings.precision,
            found="absent",
            share=share,
            message=(
                f"{name}: {layer.elements} weights of the float artifact ({share:.1%}) are not "
                "found as a layer's weights in this one"
            ),
            severity="counted",
        )


def _storage(subject: Subject, pair: Pair) -> Iterator[Finding]:
    layer = pair.layer
    if subject.is_as_asked(layer):
        return
    wanted, found = STORED_AS[subject.wanted(layer)], layer.precision
    bits, asked = STORED_BITS[found], STORED_BITS[wanted]
    kind = "wider than asked" if bits > asked else "narrower than asked"
    kind = "otherwise than asked" if bits == asked else kind
    severity: Severity = "counted"
    why = ""
    if layer.kind == "depthwise" and (wanted, found) == ("int4", "int8"):
        kind, severity = "kept at 8 bits", "note"
        why = "; no engine has 4-bit depthwise convolutions"
    elif not subject.is_counted(layer):
        severity, why = "note", f"; {layer.elements} weights are too few to matter"
    yield finding_of(subject, layer, kind, f"{wanted} weights", f"{found} weights", severity, why)


def _scales(subject: Subject) -> Iterator[Finding]:
    total = subject.total or 1
    for fault in scale_faults(subject.graph):
        name = module_path(fault.tensor, subject.tensor_map)
        yield _bad_scale(name, fault.what, min(fault.elements / total, 1.0))
    for pair in subject.distinct:
        what = layer_scale_fault(subject.graph, pair.layer)
        if what:
            yield _bad_scale(subject.path(pair.layer), what, subject.share(pair.layer))


def _bad_scale(name: str, what: str, share: float) -> Finding:
    return Finding(
        kind="bad scale",
        layer=name,
        wanted="positive finite scales, one a tensor, channel or block",
        found=what,
        share=share,
        message=f"{name}: {what}; its integers stand for nothing",
        severity="fatal",
    )


def _values(float_graph: Graph, subject: Subject) -> Iterator[Finding]:
    for pair in subject.counted:
        if pair.float_layer is None:
            continue
        what = value_fault(float_graph, pair.float_layer, subject.graph, pair.layer)
        if what:
            name = subject.path(pair.layer)
            yield Finding(
                kind="wrong values",
                layer=name,
                wanted="the float weights, rounded",
                found=what,
                share=subject.share(pair.layer),
                message=f"{name}: {what} ({pair.layer.precision}): a wrong scale or layout",
                severity="fatal",
            )


def _figures(subject: Subject, findings: list[Finding]) -> tuple[Figure, ...]:
    how = "opened the artifact and compared every weight's dtype with what was asked"
    missing = sum(item.share for item in findings if item.kind == "missing")
    stored = sum(pair.layer.elements for pair in subject.counted if subject.is_as_asked(pair.layer))
    as_asked = stored / subject.total * (1 - missing) if subject.total else 0.0
    uses = computing(subject)
    integer = sum(
        pair.layer.is_integer and subject.settings.activations in (pair.layer.activations, "none")
        for pair in uses
    )
    stored_float = {
        pair.layer.key: pair.layer.tensor.stored_bytes
        for pair in subject.distinct
        if pair.layer.precision in COMPUTED_AS_FLOATS
    }
    return (
        exact("weights_as_asked_share", as_asked, "share", how),
        exact(
            "compute_integer_share",
            integer / len(uses) if uses else 0.0,
            "share",
            "counted the operators with weights whose kernel multiplies integers",
        ),
        exact(
            "float_weight_bytes",
            sum(stored_float.values()),
            "bytes",
            "summed the weights that are stored as floats",
        ),
    )
