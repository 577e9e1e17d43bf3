"""The step "equalize": ranges of channels evened out between layers, with the same outputs.

It trains nothing and needs no data but an example to follow channels with. What is gained shows
after quantization: a scale for a whole layer fits channels of one range, and so does the one scale
of a layer's activations.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import median

from edgekit.compress.bench import Bench, StepPoint, StepResult
from edgekit.compress.count import count
from edgekit.compress.judge import Judge
from edgekit.compress.quantization.rescale import Pair, equalize_, precision_of
from edgekit.compress.quantization.rescale_pairs import find_pairs
from edgekit.core.errors import StepError
from edgekit.core.progress import Reporter
from edgekit.core.steps.equalize import Equalize

# Channels whose scale is this near to 1 (by its logarithm) stay: less than a step of 8 bits.
_STILL = 1e-3
_NAMED_REASONS = 3


def equalize(settings: Equalize, bench: Bench, reporter: Reporter) -> StepResult:
    """Equalize the weights of neighbouring layers in place.

    Raises: StepError where no two layers can be rescaled, or all ranges are even already.
    """
    model = bench.model.to(bench.device).eval()
    found = find_pairs(model, bench.call, bench.example())
    pairs = [pair for pair in found.pairs if pair.weight is not None]
    if not pairs:
        raise StepError(
            "equalize: no two layers have only functions with f(s x) = s f(x) between them "
            f"({_reasons(found.left)}); take the step out"
        )
    judge, size = Judge(bench), count(model, bench)
    scores = {"as it came": judge.score(model)}
    before = _precisions(pairs)
    reporter.progress(f"equalizing {len(pairs)} pairs of layers")
    sweeps = equalize_(pairs, settings.sweeps, _STILL)
    if not sweeps:
        raise StepError(
            f"equalize: the channels of all {len(pairs)} pairs of layers have the same ranges "
            "already, so nothing changed; take the step out"
        )
    after = _precisions(pairs)
    scores["equalized"] = judge.score(model)
    reporter.note(_summary(pairs, before, after, sweeps))
    if found.left:
        reporter.note(f"{len(found.left)} layers stay as they are: {_reasons(found.left)}")
    return StepResult(
        model=model.cpu(),
        masks=bench.masks,
        points=tuple(
            StepPoint(name=name, parameters=size.parameters, macs=size.macs, score=score)
            for name, score in scores.items()
        ),
        values={
            "sweeps": sweeps,
            "channel_precision": {
                path: {"before": before[path], "after": after[path]} for path in before
            },
            "left": dict(found.left),
        },
    )


def _precisions(pairs: Sequence[Pair]) -> dict[str, float]:
    """Of each layer that gives rescaled channels, by its path."""
    return {pair.path: precision_of(pair.ranges()) for pair in pairs}


def _summary(
    pairs: Sequence[Pair], before: Mapping[str, float], after: Mapping[str, float], sweeps: int
) -> str:
    return (
        f"{len(pairs)} pairs of layers in {sweeps} sweeps; of one grid for a whole layer its "
        f"channels use {median(before.values()):.0%} before and {median(after.values()):.0%} "
        f"after (median of layers; worst {min(before.values()):.0%} and "
        f"{min(after.values()):.0%})"
    )


def _reasons(left: Mapping[str, str]) -> str:
    """The most frequent reasons with their number."""
    counts = Counter(left.values()).most_common(_NAMED_REASONS)
    return "; ".join(f"{count} times: {why}" for why, count in counts) or "it has no such layers"
