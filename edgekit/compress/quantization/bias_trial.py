"""Whether a correction of biases is kept: by the model's outputs on data that it did not see.

The means are right after a correction, and the outputs are not always nearer: a mean over few
samples is off by itself, and what later layers lose may have cancelled. So the means are taken on
every second sample of the calibration data, and the outputs are judged on the others.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import torch
from torch import nn

from edgekit.compress.bench import Bench
from edgekit.compress.moments import input_batches
from edgekit.compress.quantization.bias import BiasCorrector
from edgekit.core.errors import StepError
from edgekit.core.progress import Reporter

# The halves of the calibration data: for the means, and to judge on.
SEEN, UNSEEN = 0, 1


@dataclass(frozen=True, slots=True, kw_only=True)
class BiasTrial:
    """What a correction does to the outputs on samples that it did not see.

    plain, corrected: squared error of the outputs over the squares of the float model's, mean of
    all outputs; None where there is no sample to judge on.
    """

    is_kept: bool
    plain: float | None
    corrected: float | None

    @property
    def text(self) -> str:
        """For the report."""
        if self.plain is None or self.corrected is None:
            return "biases left as they are: one calibration sample leaves none to judge on"
        what = "corrected biases kept" if self.is_kept else "biases left as they are"
        return (
            f"{what}: squared error of the outputs, on the half of the calibration data that the "
            f"correction did not see, {self.corrected:.3e} of their squares with corrected biases "
            f"and {self.plain:.3e} without"
        )


def try_correction(
    corrector: BiasCorrector,
    bench: Bench,
    reference: nn.Module,
    paths: Sequence[str],
    reporter: Reporter,
) -> BiasTrial:
    """Correct the layers of the model on the bench, and take it back where that is no better.

    corrector: one that sees the half ``SEEN``. reference: the same model with float weights.
    Raises: StepError for a layer that gives NaN or infinity.
    """
    plain = outputs_error(bench, reference)
    if plain is None:
        return BiasTrial(is_kept=False, plain=None, corrected=None)
    for number, path in enumerate(paths):
        reporter.progress(f"correcting the mean outputs of {path}", number / len(paths))
        corrector.correct(path)
    corrected = outputs_error(bench, reference)
    is_kept = corrected is not None and corrected < plain
    if not is_kept:
        corrector.undo()
    return BiasTrial(is_kept=is_kept, plain=plain, corrected=corrected)


@torch.no_grad()
def outputs_error(bench: Bench, reference: nn.Module) -> float | None:
    """Squared error of the outputs of the model on the bench, as ``BiasTrial`` has it.

    Where the float model's outputs are not finite nothing is compared.
    Raises: StepError for an output that is NaN or infinite, and was finite before.
    """
    lost: dict[str, float] = {}
    power: dict[str, float] = {}
    for inputs in input_batches(bench, half=UNSEEN):
        wanted, found = bench.call(reference, inputs), bench.call(bench.model, inputs)
        for name, value in wanted.items():
            values = value.double()
            values = values[is_known := values.isfinite()]
            off = float((found[name].double()[is_known] - values).square().sum())
            if not math.isfinite(off):
                raise StepError(
                    f"output '{name}' is NaN or infinite on the calibration data with rounded "
                    "weights; check the weights and the samples"
                )
            lost[name] = lost.get(name, 0.0) + off
            power[name] = power.get(name, 0.0) + float(values.square().sum())
    return fmean(lost[name] / max(power[name], 1e-30) for name in lost) if lost else None
