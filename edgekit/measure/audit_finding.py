"""One thing that an audit found."""

from dataclasses import dataclass
from typing import Literal

from edgekit.graph.weights import WeightLayer
from edgekit.measure.audit_subject import Subject

Severity = Literal["note", "counted", "fatal"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that is not as asked.

    kind: "nothing changed", "no weights", "missing", "wider than asked", "narrower than asked",
    "otherwise than asked", "stored alone", "widened to run", "float compute", "activations",
    "bad scale", "wrong values", "kept at 8 bits". layer: module path, or the tensor's name. share:
    of all weight elements, 0..1. severity: "fatal" fails the audit, "counted" does so past the
    tolerance, "note" never does.
    """

    kind: str
    layer: str
    wanted: str
    found: str
    share: float
    message: str
    severity: Severity


def finding_of(
    subject: Subject,
    layer: WeightLayer,
    kind: str,
    wanted: str,
    found: str,
    severity: Severity,
    why: str,
) -> Finding:
    """A finding about one layer's weights."""
    name, share = subject.path(layer), subject.share(layer)
    return Finding(
        kind=kind,
        layer=name,
        wanted=wanted,
        found=found,
        share=share,
        message=(
            f"{name}: {layer.operator.name} has {found}, asked for {wanted} "
            f"({kind}, {share:.1%} of the weights){why}"
        ),
        severity=severity,
    )
