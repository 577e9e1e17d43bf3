"""What would mend an operator, from what was measured of it; every setting named is edgekit's."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgekit.core.debugging import GOOD_DB, LayerError, Mend, decibels, noise_ratio
from edgekit.core.steps.spread import Spread
from edgekit.measure.debug import Compared, Comparison
from edgekit.measure.layer_links import TO_INTEGERS
from edgekit.measure.layer_sums import real_range

# A cause counts from so much of the error that the operator adds; where none does, the largest one
# still tells what to do, if it is not much smaller.
COUNTS, STILL_COUNTS = 0.25, 0.05
# The ranges of channels that one scale for all of them does not serve.
UNEVEN = 8.0
# 8 bits leave 30 dB at least where they stand for the float weights: this is something else.
NOT_ROUNDED_DB = 12.0
# So many of a value's elements vanish in the steps of its own range, and are so many times smaller
# than what sets it (where values are spread evenly, those that vanish are 900 times smaller).
VANISHED, LOPSIDED = 0.2, 1e4
_NARROW_BLOCK = 32
# How many layers are named where the error grows everywhere.
MOST_NAMED = 3
_IN_FLOAT = "--set quantize.activations=dynamic (floats between the layers)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """The operator that goes wrong first, or those that add most; what would mend the first named.

    first_wrong, largest: positions in the comparison's layers.
    """

    first_wrong: int | None
    largest: tuple[int, ...]
    mends: tuple[Mend, ...]


def find_wrong(comparison: Comparison, settings: Mapping[str, Any]) -> Finding:
    """The first operator that goes wrong; where none does and an output is not good, the worst.

    settings: of the quantize step, as the manifest keeps them.
    """
    errors = [item.error for item in comparison.layers]
    mender = Mender(layers=comparison.layers, settings=settings)
    first = next((place for place, item in enumerate(errors) if item.goes_wrong), None)
    if first is not None:
        return Finding(first_wrong=first, largest=(), mends=mender.mends(first))
    if all(item.snr_db >= GOOD_DB for item in comparison.outputs):
        return Finding(first_wrong=None, largest=(), mends=())
    ordered = sorted(range(len(errors)), key=mender.own_noise, reverse=True)
    largest = tuple(ordered[:MOST_NAMED])
    return Finding(first_wrong=None, largest=largest, mends=mender.mends(largest[0]))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Mender:
    """What is known of the whole comparison. settings: of the quantize step, as they are kept."""

    layers: Sequence[Compared]
    settings: Mapping[str, Any]

    def mends(self, place: int) -> tuple[Mend, ...]:
        """What would mend the operator at a place, the largest cause first."""
        layer = self.layers[place]
        added = noise_ratio(layer.error.added_snr_db)
        causes = sorted(self._causes(layer), key=lambda item: -item[0])
        found = tuple(mend for noise, mend in causes if noise >= COUNTS * added)
        if found:
            return found
        largest = [mend for noise, mend in causes[:1] if noise >= STILL_COUNTS * added]
        return tuple(largest) or (self._without_cause(layer),)

    def own_noise(self, place: int) -> float:
        """The error of an operator that its own weights and scale explain, at most what it adds."""
        layer = self.layers[place]
        sums, signal = layer.sums, layer.sums.signal or 1.0
        weights = 0.0 if layer.weights is None else layer.weights.noise_ratio
        own = weights + (sums.clipping + sums.rounding) / signal
        return min(own, noise_ratio(layer.error.added_snr_db))

    def _causes(self, layer: Compared) -> Iterator[tuple[float, Mend]]:
        sums, signal = layer.sums, layer.sums.signal or 1.0
        if layer.weights is not None:
            yield layer.weights.noise_ratio, self._weights(layer)
        if sums.integers:
            yield sums.clipping / signal, self._clipping(layer)
            yield sums.rounding / signal, self._rounding(layer)
        for source in self._sources(layer):
            if _has_vanished(source):
                yield float("inf"), self._vanished(source)
        if uneven := self._uneven(layer):
            yield _channel_noise(uneven[0]), self._spread(uneven)

    def _uneven(self, layer: Compared) -> list[Compared]:
        """Linear layers whose channels lie far apart before floats, up to this one; worst first."""
        found, places = [], {layer.place}
        for item in sorted(self.layers, key=lambda one: -one.place):
            if item.place in places:
                places |= set(item.point.sources)
                channels = item.sums.channels
                is_apart = channels is not None and channels.unevenness > Spread().limit
                if is_apart and self._is_read_as_floats(item):
                    found.append(item)
        return sorted(found, key=_channel_noise, reverse=True)

    def _is_read_as_floats(self, layer: Compared) -> bool:
        readers = [item.point for item in self.layers if layer.place in item.point.sources]
        return any(
            item.quantization is None or item.operator.name in TO_INTEGERS for item in readers
        )

    def _spread(self, uneven: Sequence[Compared]) -> Mend:
        worst, channels = uneven[0].error, uneven[0].sums.channels
        apart = 1.0 if channels is None else channels.unevenness
        more = f" (and of {len(uneven) - 1} more)" if len(uneven) > 1 else ""
        return Mend(
            evidence=f"the output channels of {worst.operator} '{worst.layer}'{more} lie "
            f"{apart:.0f} times apart, the largest over the median one, and one scale for all "
            f"leaves {decibels(_channel_noise(uneven[0]), 1.0):.1f} dB of each on average",
            remedy="the step 'spread', the last on the model before quantize",
        )

    def _sources(self, layer: Compared) -> list[Compared]:
        return [item for item in self.layers if item.place in layer.point.sources]

    def _weights(self, layer: Compared) -> Mend:
        error, weights = layer.error, layer.weights
        bits = error.weights or "float"
        evidence = f"its {bits} weights are {error.weight_snr_db:.1f} dB from the float weights"
        is_single = weights is not None and weights.scales == 1 and weights.spread >= UNEVEN
        if bits == "int8" and is_single and weights is not None:
            return Mend(
                evidence=f"{evidence}: one scale for channels {weights.spread:.0f} times apart",
                remedy="a scale for each channel (--set quantize.is_per_tensor=false), or the step "
                "'equalize' before quantize",
            )
        if bits not in ("int4", "int2"):
            is_other = (error.weight_snr_db or 0.0) < NOT_ROUNDED_DB
            what = ": no rounding explains that" if is_other else ""
            again = "build again with --refresh, and if it stays so " if is_other else ""
            return Mend(evidence=evidence + what, remedy=f"{again}{self._keep(error, 'float')}")
        return Mend(evidence=evidence, remedy=", or ".join(self._for_four_bits(layer)))

    def _for_four_bits(self, layer: Compared) -> Iterator[str]:
        yield "round by calibration data (the step 'round' before quantize, method \"gptq\")"
        block = int(self.settings.get("block_size", 0))
        if any(item.kind == "linear" for item in layer.point.layers) and block != _NARROW_BLOCK:
            yield f"a scale for each {_NARROW_BLOCK} weights (--set quantize.block_size=32)"
        yield self._keep(layer.error, "int8")

    def _clipping(self, layer: Compared) -> Mend:
        _, low, high = self._range(layer)
        now = self._method()
        by_method = "" if now == "min_max" else ", or --set quantize.calibration.method=min_max"
        return Mend(
            evidence=f"{layer.error.outside_share:.1%} of its values lie outside the range "
            f"{low:.3g} to {high:.3g} that calibration gave it; they go up to "
            f"{layer.sums.largest:.3g}",
            remedy=f"calibrate on more samples, and on such as these{by_method}",
        )

    def _rounding(self, layer: Compared) -> Mend:
        step, low, high = self._range(layer)
        typical = math.sqrt(layer.sums.signal / max(layer.sums.count, 1))
        other = "percentile" if self._method() == "mse" else "mse"
        ways = [f"--set quantize.calibration.method={other} to cut outliers off"]
        if any(item.kind == "linear" for item in layer.point.layers):
            ways.append("the step 'smooth' before quantize")
        ways.append(_IN_FLOAT)
        return Mend(
            evidence=f"its range {low:.3g} to {high:.3g} makes steps of {step:.3g}, and its values "
            f"are {typical:.3g} (root mean square)",
            remedy=", or ".join(ways),
        )

    def _vanished(self, source: Compared) -> Mend:
        share = (source.sums.small / source.sums.integers) if source.sums.integers else 0.0
        step, _, _ = self._range(source)
        return Mend(
            evidence=f"{share:.0%} of what it reads from {source.error.operator} "
            f"'{source.error.layer}' is less than half a step of {step:.3g} and becomes 0, since "
            f"values there go up to {source.sums.largest:.3g}",
            remedy="make the largest values smaller in the model (in an attention mask -30 does "
            f"what -1e9 does), or {_IN_FLOAT}",
        )

    def _without_cause(self, layer: Compared) -> Mend:
        error = layer.error
        kinds = {item.activations for item in layer.point.layers}
        if "dynamic" in kinds:
            return Mend(
                evidence="its weights are near the float ones; its inputs lose in the scale that "
                "they get at run time",
                remedy=f"the step 'smooth' before quantize, or {self._keep(error, 'float')}",
            )
        in_float = self._keep(error, "float") if layer.point.layers else _IN_FLOAT
        return Mend(
            evidence=f"neither its weights nor its range explain it: most of its inputs' signal "
            f"cancels, and their error ({error.input_snr_db:.1f} dB) stays",
            remedy=in_float,
        )

    def _keep(self, error: LayerError, precision: str) -> str:
        pattern = f"^{re.escape(error.layer)}$"
        return f"keep it at other bits (--layer '{pattern}={precision}')"

    def _method(self) -> str:
        calibration = self.settings.get("calibration", {})
        return str(calibration.get("method", "")) if isinstance(calibration, Mapping) else ""

    def _range(self, layer: Compared) -> tuple[float, float, float]:
        quantization = layer.point.quantization
        if quantization is None or layer.sums.dtype is None:
            return 0.0, 0.0, 0.0
        return real_range(layer.sums.dtype, quantization)


def _channel_noise(layer: Compared) -> float:
    return 0.0 if layer.sums.channels is None else layer.sums.channels.noise_ratio


def _has_vanished(source: Compared) -> bool:
    sums = source.sums
    if not sums.small or sums.small < VANISHED * sums.integers:
        return False
    return bool(sums.largest >= LOPSIDED * math.sqrt(sums.small_signal / sums.small))
