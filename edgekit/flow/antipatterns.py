"""Known ways to ship a worse model than one needs to: found in a build, each with its fix.

Only what is the same on every machine is looked at, because the lines go into the manifest.
"""

import re
import statistics
from collections.abc import Iterator

from edgekit.core.profile import DeviceProfile
from edgekit.core.strategy import Strategy
from edgekit.evaluate.drift import Drift
from edgekit.flow.planning import quantize_of
from edgekit.measure.weight_errors import WeightError

# Ranges of activations settle after about this many samples (docs/results.md).
FEW_SAMPLES = 100
# A layer stands out whose weights lose so many times the median at the same bits, and this much at
# all (26 dB). Layers without outliers are within 1.3 times; MiniLM's worst in INT8 loses 2.7 times
# the median, and 0.02: that harms nothing.
OUTLYING = 2.0
HARMFUL = 0.05
NAMED_LAYERS = 3


def find_anti_patterns(
    profile: DeviceProfile,
    strategy: Strategy,
    drift: Drift | None,
    errors: tuple[WeightError, ...],
) -> tuple[str, ...]:
    """A line for each anti-pattern: what it is, and what to do.

    drift: of the calibration data from the evaluation data. errors: what each layer's weights lost.
    """
    return (
        *_one_technique(strategy),
        *_full_precision(profile, strategy),
        *_calibration(strategy, drift),
        *_same_bits(errors),
    )


def _one_technique(strategy: Strategy) -> Iterator[str]:
    run = [step.name for step in strategy.steps if step.is_run]
    skipped = [f"{step.name} ({step.reason.partition(' (')[0]})" for step in strategy.skipped]
    if len(run) == 1 and skipped:
        yield (
            f"only one technique ({run[0]}) where the profile asks for {len(run) + len(skipped)}: "
            f"{', '.join(skipped)} did not run; give what is lacking, or take the step out"
        )


def _full_precision(profile: DeviceProfile, strategy: Strategy) -> Iterator[str]:
    if quantize_of(strategy) is None:
        yield (
            f"full precision for {profile.name}: no step stores the weights in fewer bits; add a "
            "quantize step to the profile"
        )


def _calibration(strategy: Strategy, drift: Drift | None) -> Iterator[str]:
    quantize = quantize_of(strategy)
    if drift is None or quantize is None or quantize.activations != "static":
        return
    used = min(drift.samples, quantize.calibration.samples or drift.samples)
    if used < FEW_SAMPLES:
        yield (
            f"calibration on {used} samples: the ranges of activations rest on too few; give "
            f"{FEW_SAMPLES} or more"
        )
    if drift.is_large:
        yield (
            f"calibration data unlike the evaluation data: {drift.statistic} differs by "
            f"{drift.distance:.2f} (Kolmogorov-Smirnov; chance stays below {drift.threshold:.2f}); "
            "calibrate on samples of the kind that the device will see, prepared alike"
        )


def _same_bits(errors: tuple[WeightError, ...]) -> Iterator[str]:
    """Layers at the same bits whose weights lose far more than those of the others."""
    by_bits: dict[int, list[tuple[str, float]]] = {}
    for item in errors:
        by_bits.setdefault(item.bits, []).append((item.layer, item.relative_error))
    for bits, layers in sorted(by_bits.items()):
        median = statistics.median(error for _, error in layers)
        least = max(OUTLYING * median, HARMFUL)
        worst = [item for item in layers if len(layers) > 2 and item[1] > least]
        if worst and median > 0:
            worst.sort(key=lambda item: -item[1])
            named = ", ".join(
                f"{layer} ({error:.0%} of them, {error / median:.1f} times the median)"
                for layer, error in worst[:NAMED_LAYERS]
            )
            yield (
                f"the same {bits} bits for layers of very different sensitivity: the weights of "
                f"{named} lose more than the others'; keep them at more bits "
                f"(--layer '^{re.escape(worst[0][0])}$={_wider(bits)}')"
            )


def _wider(bits: int) -> str:
    return "int8" if bits < 8 else "float"
