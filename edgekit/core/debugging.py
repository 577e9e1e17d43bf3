"""What a layer by layer comparison of an artifact with its float model found, as plain values.

Shares are of 0..1. Decibels are 10 log10 of a ratio of powers, kept inside ``LOWEST_DB`` (nothing
of the signal is left, or NaN came out) and ``HIGHEST_DB`` (no difference at all).
"""

import math
from dataclasses import dataclass

LOWEST_DB = -50.0
HIGHEST_DB = 150.0
# A layer goes wrong where the error that it adds has more than 3% of the power of its signal (8-bit
# layers that fit add a thousandth or less, 4-bit ones about a hundredth) ...
ADDED_FLOOR_DB = 15.0
# ... and where that is most of its error: at least four times what came in.
JUMP_DB = 6.0
# Outputs that keep this much are good: their cosine to the float ones is above 0.995.
GOOD_DB = 20.0


def decibels(noise: float, signal: float) -> float:
    """The ratio of a signal's power to its noise's, in dB."""
    if noise == 0:
        return HIGHEST_DB
    if signal == 0 or not math.isfinite(noise):
        return LOWEST_DB
    return min(max(10 * math.log10(signal / noise), LOWEST_DB), HIGHEST_DB)


def noise_ratio(snr_db: float) -> float:
    """The noise's power over the signal's: what ``decibels`` was made of."""
    return 0.0 if snr_db >= HIGHEST_DB else 10 ** (-snr_db / 10)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mend:
    """What would mend a layer, and the evidence that says so."""

    evidence: str
    remedy: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerError:
    """One operator of the artifact beside the float model's.

    layer: the module path of its weights; of an operator without weights the name of its output.
    weights: how they are stored ("int8", "int4", ...), "" where there are none. snr_db, cosine: of
    its output over all samples. saturated_share: of the output's integers, at an end of their range
    that does not stand for 0. outside_share: of the float values, more than half a step outside the
    range. grid_snr_db: what the output's scale alone costs, if the float values were stored with
    it. weight_snr_db: of the stored weights. input_snr_db: of all inputs together, as they came in.
    added_snr_db: the output's signal over the error that this operator adds. None where there is
    nothing of the kind.
    """

    operator: str
    layer: str
    tensor: str
    weights: str
    snr_db: float
    cosine: float
    input_snr_db: float
    added_snr_db: float
    saturated_share: float | None = None
    outside_share: float | None = None
    grid_snr_db: float | None = None
    weight_snr_db: float | None = None

    @property
    def goes_wrong(self) -> bool:
        """Whether the error is made here, and is large."""
        is_jump = self.snr_db <= self.input_snr_db - JUMP_DB
        return is_jump and self.added_snr_db < ADDED_FLOOR_DB


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputError:
    """One output of the model."""

    name: str
    snr_db: float
    cosine: float


@dataclass(frozen=True, slots=True, kw_only=True)
class DebugResult:
    """The comparison of one bundle.

    float_source: where the float model came from. matched_by: "name" or "structure". layers: in the
    order of the graph. compared_layers, all_layers: operators with weights. unmatched: operators
    that have no counterpart, and why. first_wrong: the position in ``layers`` of the first that
    goes wrong, None where none does; then, if an output is not good, largest: those that add most.
    mends: for the first of these. engine_difference: the largest difference of the outputs
    here to the bundle's golden ones, over the tolerance; above 1 the inner values are not
    quite those that the engine computes. None without golden outputs for these samples.
    """

    bundle_id: str
    float_source: str
    matched_by: str
    samples: int
    layers: tuple[LayerError, ...]
    outputs: tuple[OutputError, ...]
    compared_layers: int
    all_layers: int
    unmatched: tuple[str, ...] = ()
    first_wrong: int | None = None
    largest: tuple[int, ...] = ()
    mends: tuple[Mend, ...] = ()
    engine_difference: float | None = None
    notes: tuple[str, ...] = ()

    @property
    def wrong(self) -> LayerError | None:
        """The first layer that goes wrong."""
        return None if self.first_wrong is None else self.layers[self.first_wrong]

    @property
    def is_good(self) -> bool:
        """Whether no layer goes wrong and every output is near the float model's."""
        return self.wrong is None and all(item.snr_db >= GOOD_DB for item in self.outputs)
