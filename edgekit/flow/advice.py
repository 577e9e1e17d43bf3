"""What to try after a verdict, for every limit that did not pass."""

from collections.abc import Iterable, Iterator, Mapping

from edgekit.core.figure import Figure, Provenance
from edgekit.core.verdict import Judgement, Status, Verdict
from edgekit.evaluate.paired import samples_to_decide
from edgekit.flow.compressed import ModuleStep
from edgekit.flow.drop_advice import DROP, advise_on_drop
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
BYTES = ("artifact_bytes", "footprint_bytes", "flash_bytes")
# Figures that a smaller model brings down, and the steps that make one.
BY_SIZE = (*BYTES, "ram_bytes", "peak_memory_bytes", "latency_ratio")
SHRINKING = ("prune", "distil", "factorize")


def advise(
    plan: Plan,
    verdict: Verdict,
    figures: Mapping[str, Figure],
    products: Products,
    module_steps: Iterable[ModuleStep] = (),
) -> tuple[str, ...]:
    """What to try for each limit that did not pass, and the largest layers where bytes are short.

    module_steps: those on the torch model that ran, in order.
    """
    advice: list[str] = []
    for item in verdict.judgements:
        if item.limit.figure == DROP and item.status is Status.FAIL:
            advice += advise_on_drop(plan, item.figure, module_steps)
        else:
            advice += filter(None, [_advise_one(item, figures)])
    failed = {item.limit.figure for item in verdict.of(Status.FAIL)}
    if failed & set(BY_SIZE):
        advice += _smaller_models(plan)
    missed = failed | {item.limit.figure for item in verdict.of(Status.INCONCLUSIVE)}
    if missed & set(BYTES):
        top = ", ".join(f"{item.layer} ({item.bytes} bytes)" for item in _top(products))
        advice.append(f"largest layers: {top}")
    return tuple(advice)


def _smaller_models(plan: Plan) -> Iterator[str]:
    for step in plan.strategy.skipped:
        if step.name in SHRINKING:
            yield (
                f"a smaller model: '{step.name}' was skipped, and runs with training data and "
                f"--effort standard: {step.reason}"
            )


def _advise_one(item: Judgement, figures: Mapping[str, Figure]) -> str:
    name = item.limit.figure
    if item.status is Status.FAIL:
        return f"{name}: {BY_FIGURE.get(name, 'see the figure in the report')}"
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


def _top(products: Products) -> tuple[LayerSize, ...]:
    return largest_layers(products.named)[:3]
