"""The step "spread": outputs of linear layers in which no channel is far larger than the others.

It trains nothing and moves nothing into other layers: y = s ((W / s) x + b / s), with a power of
two for each output channel, which leaves the floats what they are to the bit. What a layer gives
as integers of one scale is then (W / s) x + b / s, whose channels have like ranges; the
multiplication behind it comes where values are floats again. Post-norm transformers (BERT) need
it: their sums and norms leave no layer that could take such factors, which is what "smooth" and
"equalize" want.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from edgekit.compress.bench import Bench, StepPoint, StepResult
from edgekit.compress.count import count
from edgekit.compress.judge import Judge, restore_modes, training_modes
from edgekit.compress.layer_paths import matching
from edgekit.compress.moments import fast_path_off, input_batches
from edgekit.compress.plain_linears import plain_linears
from edgekit.compress.quantization.rescale_pairs import are_same
from edgekit.compress.scaled_linear import as_spread
from edgekit.core.errors import NothingGainedError, StepError
from edgekit.core.progress import Reporter
from edgekit.core.steps.spread import Spread

# A channel that calibration hardly saw is not made larger without end: other data may need it.
_MOST_RAISED = 2.0**-4


@dataclass(frozen=True, slots=True, kw_only=True)
class Spreading:
    """What was done to one layer: its largest channel over its median one, before and after."""

    before: float
    after: float


def spread(settings: Spread, bench: Bench, reporter: Reporter) -> StepResult:
    """Replace the linear layers of a model whose output channels lie far apart, in place.

    Raises: NothingGainedError where there are none, or the outputs would change; StepError for a
    layer that gives NaN or infinity.
    """
    model = bench.model.to(bench.device).eval()
    layers = _candidates(model, settings)
    ranges = _output_ranges(bench, layers)
    chosen = {path: seen for path, seen in ranges.items() if _unevenness(seen) > settings.limit}
    if not chosen:
        raise _nothing(settings, ranges)
    judge, size = Judge(bench), count(model, bench)
    scores = {"as it came": judge.score(model)}
    outputs = _outputs(bench)
    found = {path: _spread_one(model, path, seen) for path, seen in chosen.items()}
    if not are_same(outputs, _outputs(bench)):
        raise NothingGainedError(
            f"spread: the outputs on the first calibration samples are not the same any more with "
            f"{', '.join(found)} rewritten, as the model uses their weights in another way too",
            "name these layers in 'ignore', or take the step out",
        )
    scores["spread"] = judge.score(model)
    reporter.note(_summary(found, len(ranges)))
    return StepResult(
        model=model.cpu(),
        masks=bench.masks,
        points=tuple(
            StepPoint(name=name, parameters=size.parameters, macs=size.macs, score=score)
            for name, score in scores.items()
        ),
        values={"layers": {path: asdict(item) for path, item in found.items()}},
    )


def channel_scales(largest: Tensor) -> Tensor:
    """The power of two nearest to each channel's range over the median one.

    A channel that is always zero keeps its 1, and none is made more than 16 times larger.
    Shapes: (channels,), the largest absolute value of each -> (channels,).
    """
    middle = _median(largest)
    ratios = torch.where(largest > 0, largest / middle, 1.0)
    return torch.exp2(torch.log2(ratios).round()).clamp_min(_MOST_RAISED)


def _median(largest: Tensor) -> Tensor:
    """Of the channels that are not always zero."""
    used = largest[largest > 0]
    return used.median() if len(used) else largest.new_ones(())


def _unevenness(largest: Tensor) -> float:
    return float(largest.max() / _median(largest))


def _candidates(model: nn.Module, settings: Spread) -> dict[str, nn.Linear]:
    """Plain linear layers that the settings leave, by path."""
    every = [path for path, item in model.named_modules() if type(item) is nn.Linear]
    ignored = matching("spread: ignore", settings.ignore, every)
    return {path: item for path, item in plain_linears(model).items() if path not in ignored}


def _output_ranges(bench: Bench, layers: Mapping[str, nn.Linear]) -> dict[str, Tensor]:
    """The largest absolute value of each output channel; layers never called are left out.

    Raises: StepError for a layer that gives NaN or infinity.
    """
    ranges: dict[str, Tensor] = {}
    modes = training_modes(bench.model)
    hooks = [layer.register_forward_hook(_watch(path, ranges)) for path, layer in layers.items()]
    try:
        with torch.no_grad(), fast_path_off():
            for inputs in input_batches(bench):
                bench.call(bench.model, inputs)
    finally:
        for hook in hooks:
            hook.remove()
        restore_modes(modes)
    for path, seen in ranges.items():
        if not bool(seen.isfinite().all()):
            raise StepError(
                f"layer '{path}' gives NaN or infinity on the calibration data; check the weights "
                "and the samples"
            )
    return ranges


def _watch(path: str, ranges: dict[str, Tensor]) -> Any:
    def see(_: nn.Module, __: Any, output: Tensor) -> None:
        largest = output.detach().float().reshape(-1, output.shape[-1]).abs().amax(dim=0)
        ranges[path] = torch.maximum(ranges[path], largest) if path in ranges else largest

    return see


def _spread_one(model: nn.Module, path: str, largest: Tensor) -> Spreading:
    layer = model.get_submodule(path)
    if not isinstance(layer, nn.Linear):
        raise TypeError(path)
    scale = channel_scales(largest)
    model.set_submodule(path, as_spread(layer, scale))
    return Spreading(before=_unevenness(largest), after=_unevenness(largest / scale))


@torch.no_grad()
def _outputs(bench: Bench) -> dict[str, Tensor]:
    # As many as a build calls it with, and with torch's fused paths, which read weights themselves.
    inputs = next(input_batches(bench))
    return {name: value.clone() for name, value in bench.call(bench.model, inputs).items()}


def _nothing(settings: Spread, ranges: Mapping[str, Tensor]) -> NothingGainedError:
    if not ranges:
        return NothingGainedError(
            "spread: the model calls no linear layer whose weight is its own alone (and that is "
            "not in 'ignore' or fused by torch)",
            "take the step out",
        )
    largest, path = max((_unevenness(seen), path) for path, seen in ranges.items())
    lower = math.floor(10 * largest) / 10
    hint = f", or set limit below {lower:g}" if lower > 1 else ""
    return NothingGainedError(
        f"spread: of {len(ranges)} linear layers none has an output channel more than "
        f"{settings.limit:g} times as large as its median one on the calibration data (the most "
        f"uneven is '{path}', {largest:.1f} times)",
        f"take the step out{hint}",
    )


def _summary(found: Mapping[str, Spreading], layers: int) -> str:
    before = [item.before for item in found.values()]
    after = [item.after for item in found.values()]
    return (
        f"{len(found)} of {layers} linear layers; their largest output channel over the median "
        f"one is {median(before):.1f} before and {median(after):.1f} after (median of layers; "
        f"worst {max(before):.1f} and {max(after):.1f})"
    )
