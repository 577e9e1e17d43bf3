"""The step "rotate": channels mixed so that no few of them are large, with the same outputs.

It trains nothing and adds no operator: every matrix is merged into the weights on its two sides.
What is gained shows after quantization, where one scale serves many channels: of activations, and
of weights in blocks.
Source: Ashkboos et al. 2024, arXiv:2404.00456 (QuaRot), section 4, stage 1; Liu et al. 2024,
arXiv:2405.16406 (SpinQuant), section 3.1, R1 and R2, with random Hadamard matrices.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from statistics import median

import torch
from torch import Tensor, nn

from edgekit.compress.bench import Bench, StepPoint, StepResult
from edgekit.compress.count import count
from edgekit.compress.judge import Judge
from edgekit.compress.masks import copy_model
from edgekit.compress.quantization.rotation_heads import rotate_values_
from edgekit.compress.quantization.rotation_merge import rotate_streams_
from edgekit.compress.quantization.rotation_peaks import peak_ratios
from edgekit.compress.quantization.rotation_stream import find_streams
from edgekit.compress.quantization.rotation_values import find_values
from edgekit.core.errors import StepError
from edgekit.core.progress import Reporter
from edgekit.core.steps.rotate import Rotate, Rotation

# Of the largest output. Twelve blocks of float32 differ by 1e-6; a matrix too much or too little
# anywhere by more than 1e-2.
SAME = 1e-4
_CHECKED_BATCHES, _BATCH_SAMPLES = 4, 2
_NAMED_REASONS = 3

Inputs = Mapping[str, Tensor]


@dataclass(slots=True, kw_only=True)
class _Rotated:
    """What was done: sizes of streams by name, heads of layers that give values, by name.

    layers: weights that read what was rotated. left: what was not, and why.
    """

    streams: dict[str, int] = field(default_factory=dict)
    values: dict[str, int] = field(default_factory=dict)
    untied: list[str] = field(default_factory=list)
    layers: list[str] = field(default_factory=list)
    left: dict[str, str] = field(default_factory=dict)


def rotate(settings: Rotate, bench: Bench, reporter: Reporter) -> StepResult:
    """Rotate the channels of a copy of the model.

    Raises: StepError where nothing can be rotated, naming what stands in the way, and where the
    outputs would change; the model on the bench stays as it is.
    """
    original = bench.model.to(bench.device).eval()
    model = copy_model(original)
    checks = _check_inputs(bench)
    expected = [_outputs(bench, original, inputs) for inputs in checks]
    generator = torch.Generator().manual_seed(bench.seed)
    done = _Rotated()
    for rotation in dict.fromkeys(settings.rotations):
        reporter.progress(f"rotating: {rotation}")
        _rotate_one_(rotation, settings, bench, model, checks[0], generator, done)
        found = (_outputs(bench, model, inputs) for inputs in checks)
        _require_same(rotation, expected, found)
    if not done.streams and not done.values:
        raise StepError(
            f"rotate: nothing can be rotated ({_reasons(done.left) or _nothing(settings)}); "
            "take the step out"
        )
    return _result(bench, original, model, done, reporter)


def _rotate_one_(
    rotation: Rotation,
    settings: Rotate,
    bench: Bench,
    model: nn.Module,
    example: Inputs,
    generator: torch.Generator,
    done: _Rotated,
) -> None:
    masks = set(bench.masks)
    if rotation == "stream":
        streams = find_streams(
            model, bench.call, example, masks=masks, may_untie=settings.may_untie
        )
        rotate_streams_(model, streams.streams, generator)
        done.left |= streams.left
        for stream in streams.streams:
            done.streams[stream.space.name] = stream.space.size
            done.layers += stream.layers
            done.untied += stream.tied
        return
    values = find_values(model, bench.call, example, masks=masks)
    rotate_values_(values.givers, generator)
    done.left |= values.left
    for giver in values.givers:
        done.values[giver.weight.name] = len(giver.free)
        done.layers += [item.leaf.name for item in giver.readers]


def _check_inputs(bench: Bench) -> list[Inputs]:
    """The first calibration samples."""
    names = [item.name for item in bench.contract.inputs]
    size = _BATCH_SAMPLES if bench.contract.has_dynamic_batch else 1
    return [
        {name: torch.from_numpy(value).to(bench.device) for name, value in rows.items()}
        for rows in islice(bench.calibration.batches(size, names), _CHECKED_BATCHES)
    ]


@torch.no_grad()
def _outputs(bench: Bench, model: nn.Module, inputs: Inputs) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in bench.call(model, inputs).items()}


def _require_same(
    rotation: str, expected: Sequence[Inputs], found: Iterable[Mapping[str, Tensor]]
) -> None:
    """Refuse other outputs than before."""
    for before, after in zip(expected, found, strict=True):
        for name, value in before.items():
            other = after[name]
            if not value.is_floating_point():
                is_same, moved = torch.equal(value, other), "in some places"
            else:
                largest = float(value.abs().max()) if value.numel() else 0.0
                error = float((other - value).abs().max()) if value.numel() else 0.0
                is_same, moved = error <= SAME * largest, f"by {error:.2g} (largest {largest:.2g})"
            if not is_same:
                raise StepError(
                    f"rotate: with '{rotation}' rotated the output '{name}' changes {moved} on the "
                    f"first calibration samples, and {SAME:g} of the largest is allowed: the "
                    "model does with these channels what its functions do not show, or its type "
                    f"of numbers does not hold the product; leave '{rotation}' out of rotations, "
                    "or take the step out (nothing was changed)"
                )


def _result(
    bench: Bench, original: nn.Module, model: nn.Module, done: _Rotated, reporter: Reporter
) -> StepResult:
    """The result with what was gained, told as well."""
    judge = Judge(bench)
    points = [
        StepPoint(name=name, parameters=size.parameters, macs=size.macs, score=judge.score(item))
        for name, item in (("as it came", original), ("rotated", model))
        for size in (count(item, bench),)
    ]
    before, after = (peak_ratios(bench, item, done.layers) for item in (original, model))
    peaks = {
        name: {"before": before[name], "after": after[name]} for name in before if name in after
    }
    reporter.note(_summary(done) + _spread(peaks))
    if done.untied:
        reporter.note(
            f"{', '.join(done.untied)}: the embedding and the output layer have a weight each now"
        )
    if done.left:
        reporter.note(f"{len(done.left)} stay as they are: {_reasons(done.left)}")
    return StepResult(
        model=model.cpu(),
        masks=bench.masks,
        points=tuple(points),
        values={
            "streams": done.streams,
            "value_heads": done.values,
            "untied": done.untied,
            "peak_ratios": peaks,
            "left": done.left,
        },
    )


def _summary(done: _Rotated) -> str:
    parts = [f"the {size} channels of {name}" for name, size in done.streams.items()]
    if done.values:
        parts.append(f"the values of {len(done.values)} attention layers")
    return f"rotated: {', '.join(parts)}"


def _spread(peaks: Mapping[str, Mapping[str, float]]) -> str:
    if not peaks:
        return ""
    before, after = ([item[key] for item in peaks.values()] for key in ("before", "after"))
    return (
        f"; largest input of a layer over their root mean square, median of {len(peaks)} layers: "
        f"{median(before):.1f} before and {median(after):.1f} after (worst {max(before):.1f} and "
        f"{max(after):.1f})"
    )


def _nothing(settings: Rotate) -> str:
    """What a model without anything to rotate has not."""
    kinds = {
        "stream": "no RMSNorm or LayerNorm reads what linear layers write",
        "values": "no attention has values of a linear layer",
    }
    return "; ".join(kinds[name] for name in settings.rotations)


def _reasons(left: Mapping[str, str]) -> str:
    named = [f"{name}: {why}" for name, why in list(left.items())[:_NAMED_REASONS]]
    more = len(left) - len(named)
    return "; ".join(named) + (f"; and {more} more" if more > 0 else "")
