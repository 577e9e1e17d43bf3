"""What to try after a verdict: one line for every limit that did not pass."""

from collections.abc import Mapping

from edgekit.core.figure import Figure, Provenance
from edgekit.core.verdict import Judgement, Status, Verdict
from edgekit.evaluate.paired import samples_to_decide
from edgekit.flow.making import Products, largest_layers
from edgekit.flow.planning import Plan
from edgekit.flow.results import LayerSize

BY_FIGURE = {
    "artifact_bytes": "ask for fewer bits (--set quantize.precision=int4) or a smaller model",
    "footprint_bytes": "the engine's library counts too: another target may bring a smaller one",
    "peak_memory_bytes": "smaller inputs or fewer channels; activations are what is live at once",
    "latency_ratio": "leave layers that got slower in float (--layer PATTERN=float), or choose "
    "the precision that this processor has instructions for",
    "load_ms": "a smaller artifact loads faster",
}
BOUNDED = (
    "only an upper bound of the engine's library is known here, and it does not fit: cite the "
    "library of the very version under runtime_library in the target's target.toml"
)
DROP_BY_PRECISION = {
    "int4": "use int8 (--set quantize.precision=int8), or keep sensitive layers at 8 bits "
    "(--layer PATTERN=int8)",
    "int8": "keep sensitive layers in float (--layer PATTERN=float), calibrate on more samples, "
    "or use fp16 (--set quantize.precision=fp16)",
    "fp16": "values beyond 65504 or below 6e-8 are lost in half precision; keep those layers in "
    "float (--layer PATTERN=float)",
}


def advise(
    plan: Plan, verdict: Verdict, figures: Mapping[str, Figure], products: Products
) -> tuple[str, ...]:
    """A line for each limit that did not pass, and the largest layers where bytes are short."""
    lines = [_advise_one(plan, item, figures) for item in verdict.judgements]
    advice = [line for line in lines if line]
    missed = {item.limit.figure for item in verdict.of(Status.FAIL, Status.INCONCLUSIVE)}
    if missed & {"artifact_bytes", "footprint_bytes", "flash_bytes"}:
        top = ", ".join(f"{item.layer} ({item.bytes} bytes)" for item in _top(products))
        advice.append(f"largest layers: {top}")
    return tuple(advice)


def _advise_one(plan: Plan, item: Judgement, figures: Mapping[str, Figure]) -> str:
    name = item.limit.figure
    if item.status is Status.FAIL:
        return f"{name}: {_remedy(plan, name)}"
    if item.status is Status.PENDING:
        wanted = " or ".join(kind.value for kind in item.limit.accepts)
        return f"{name}: pending; it needs evidence from: {wanted}"
    if item.status is Status.INCONCLUSIVE:
        figure = figures[name]
        if figure.provenance is Provenance.CITED:
            return f"{name}: {BOUNDED}"
        needed = samples_to_decide(figure, item.limit)
        count = "no number of samples" if needed is None else f"about {needed} samples"
        return f"{name}: {count} would decide; this build had {figure.samples}"
    return ""


def _remedy(plan: Plan, name: str) -> str:
    quantize = plan.quantize
    if name == "metric_drop":
        return DROP_BY_PRECISION.get(quantize.precision if quantize else "", "see the audit")
    return BY_FIGURE.get(name, "see the figure in the report")


def _top(products: Products) -> tuple[LayerSize, ...]:
    return largest_layers(products.named)[:3]
