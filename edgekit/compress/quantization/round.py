"""The step "round": weights on the grid that the artifact will store, chosen by calibration data.

The model stays an ordinary float model. Its exporters find the grid again, because every channel
(or block) is whole steps up to its largest weight: what is rounded here is what is stored.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median

import torch
from torch import Tensor

from edgekit.compress.bench import Bench, StepPoint, StepResult
from edgekit.compress.count import count
from edgekit.compress.judge import Judge
from edgekit.compress.layer_inputs import InputSums, gather, in_groups
from edgekit.compress.quantization.gptq import Grid, gptq, output_error, round_nearest
from edgekit.compress.sparsity.sparse_layers import SparseWeight, participants
from edgekit.compress.training.rounding import RoundedLayer, make_rounder
from edgekit.core.errors import StepError
from edgekit.core.progress import Reporter
from edgekit.core.steps.round import Round

# Of a step: what a weight moves by float32's own rounding is less.
_MOVED = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerError:
    """What rounding did to the outputs of one layer: squared errors over their own squares.

    nearest: with each weight by itself. why_nearest: why no more was done; "" where it was.
    """

    nearest: float
    rounded: float
    why_nearest: str = ""


def round_weights(settings: Round, bench: Bench, reporter: Reporter) -> StepResult:
    """Round the weights of convolutions and linear layers in place.

    Raises: StepError where no weight would change, no layer is left to round, and for a layer that
    gets NaN or infinity.
    """
    model = bench.model.to(bench.device).eval()
    rounder = make_rounder(model, settings.rounding, bench.call, bench.example())
    judge, size = Judge(bench), count(model, bench)
    before = judge.score(model)
    step = _Step(settings, bench, reporter, rounder.layers)
    errors = step.run()
    if not step.has_changed:
        raise StepError(
            "round: every weight was on its grid already, so nothing changed; take the step out"
        )
    for path in rounder.left:
        reporter.note(f"{path}: left as it is: its weight is computed at each call")
    reporter.note(_summary(settings, errors))
    scores = {"as it came": before, "rounded": judge.score(model)}
    points = tuple(
        StepPoint(name=name, parameters=size.parameters, macs=size.macs, score=score)
        for name, score in scores.items()
    )
    return StepResult(
        model=model.cpu(),
        masks=bench.masks,
        points=points,
        values={
            "bits": {layer.path: layer.bits for layer in rounder.layers},
            "output_errors": {path: asdict(item) for path, item in errors.items()},
        },
    )


class _Step:
    """The layers of one model, rounded in the order in which it calls them."""

    def __init__(
        self, settings: Round, bench: Bench, reporter: Reporter, layers: Sequence[RoundedLayer]
    ) -> None:
        self.settings, self.bench, self.reporter = settings, bench, reporter
        self.layers = {id(layer.weight): layer for layer in layers}
        found = participants(bench.model).weights
        self.weights = {id(item.parameter): item for item in found}
        self.masks = bench.masks
        self.has_changed = False

    def run(self) -> dict[str, LayerError]:
        """The errors of all layers by path."""
        errors: dict[str, LayerError] = {}
        mapped = [self.weights[key] for key in self.layers if not self._why_unmapped(key)]
        groups = list(in_groups(mapped))
        for number, group in enumerate(groups):
            self.reporter.progress(f"rounding {len(group)} layers", number / len(groups))
            seen = gather(self.bench, self.bench.model, group, has_products=True)
            for item in group:
                errors[item.path] = self._round(item, seen.get(item.name))
        for key, layer in self.layers.items():
            if layer.path not in errors:
                errors[layer.path] = self._round_blindly(layer, self._why_unmapped(key))
        return {layer.path: errors[layer.path] for layer in self.layers.values()}

    def _why_unmapped(self, key: int) -> str:
        item = self.weights.get(key)
        return "its inputs are not known" if item is None else item.why_unmapped

    def _round(self, item: SparseWeight, sums: InputSums | None) -> LayerError:
        """One layer by what comes into it."""
        layer = self.layers[id(item.parameter)]
        if sums is None or sums.products is None:
            return self._round_blindly(layer, "the model does not call it on the calibration data")
        if not bool((sums.squares > 0).any()):
            return self._round_blindly(layer, "it gets nothing but zeros on the calibration data")
        grid, weight = _grid(layer), item.matrix(item.parameter.detach())
        importance = sums.squares.repeat_interleave(len(weight) // len(sums.squares), dim=0)
        found = {"nearest": round_nearest(weight, grid, importance)}
        if self.settings.method == "gptq":
            mask = self.masks.get(item.name)
            there = None if mask is None else item.matrix(mask.to(weight.device, torch.bool))
            found["gptq"] = gptq(weight, sums.products, grid, keep=there)
        errors = {name: output_error(weight, it, sums.products) for name, it in found.items()}
        best = min(errors, key=errors.__getitem__)
        self._place(layer, item.restored(found[best]))
        return LayerError(nearest=errors["nearest"], rounded=errors[best])

    def _round_blindly(self, layer: RoundedLayer, why: str) -> LayerError:
        """One layer by its weights alone."""
        turned = layer.weight.detach().movedim(layer.axis, 0)
        rounded = round_nearest(turned.flatten(1), _grid(layer)).reshape(turned.shape)
        self._place(layer, rounded.movedim(0, layer.axis))
        return LayerError(nearest=0.0, rounded=0.0, why_nearest=why)

    @torch.no_grad()
    def _place(self, layer: RoundedLayer, rounded: Tensor) -> None:
        step = layer.weight.abs().amax() / layer.top
        self.has_changed |= bool((layer.weight - rounded).abs().amax() > _MOVED * step)
        layer.weight.copy_(rounded)


def _grid(layer: RoundedLayer) -> Grid:
    return Grid(top=layer.top, block_size=layer.block_size)


def _summary(settings: Round, errors: Mapping[str, LayerError]) -> str:
    """What rounding cost, for the report."""
    known = [item for item in errors.values() if not item.why_nearest]
    text = f"{len(errors)} layers by {settings.method}"
    if known:
        text += (
            "; squared error of a layer's outputs, median of layers: "
            f"{median(item.rounded for item in known):.2e} of their squares"
        )
        if settings.method != "nearest":
            text += f", {median(item.nearest for item in known):.2e} with each weight by itself"
    blind = [path for path, item in errors.items() if item.why_nearest]
    if blind:
        text += f"; by their weights alone: {', '.join(blind)} ({errors[blind[0]].why_nearest})"
    return text
