"""Weights and activations that a training sees rounded: what the artifact holds is what is trained.

Before a batch the weights of convolutions and linear layers are put on the grid of integers that
the quantize step will store, and after its gradients they are what they were: the gradient of the
rounded weight moves the float one (straight-through). Batch norms that are folded later multiply
whole output channels, each of which has its own scale, so the integers stay the same. Activations
are rounded where the artifact rounds them (``activation_points``), each to a range of its own
(``activation_ranges``). Steps and ranges may be learned (``weight_steps``, ``lsq``).
Source: Bengio et al. 2013, arXiv:1308.3432, section 3 (straight-through estimator); Jacob et al.
2018, arXiv:1712.05877, section 3 (quantization in training).
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from edgekit.compress.bench import Call
from edgekit.compress.judge import restore_modes, training_modes
from edgekit.compress.layer_paths import nearest_paths
from edgekit.compress.moments import fast_path_off
from edgekit.compress.training.grids import RoundedLayer, on_grid, short_scales
from edgekit.compress.training.seen_activations import RoundedActivations
from edgekit.compress.training.weight_steps import WeightSteps
from edgekit.core.errors import StepError
from edgekit.core.steps.patterns import compiled_pattern
from edgekit.core.steps.rounding import Rounding

__all__ = ["RoundedLayer", "Rounder", "make_rounder", "on_grid", "short_scales"]

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_BITS = {"int8": 8, "int4": 4}


class Rounder:
    """The weights and activations of one model, as they are and as they will be stored."""

    def __init__(
        self,
        layers: Sequence[RoundedLayer],
        left: Sequence[str] = (),
        *,
        steps: WeightSteps | None = None,
        activations: RoundedActivations | None = None,
    ) -> None:
        """left: layers that are seen as they are, though rounding was asked for them.

        steps: those of the layers, where they are learned.
        """
        self.layers, self.left = tuple(layers), tuple(left)
        self.activations = activations
        self._steps = steps
        self._floats: list[Tensor] = []

    def with_activations(self, activations: RoundedActivations) -> "Rounder":
        """The same with activations rounded too."""
        return Rounder(self.layers, self.left, steps=self._steps, activations=activations)

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """What is learned beside the model's weights, by name."""
        return {
            f"rounding:{part}.{name}": value
            for part, module in self._modules
            for name, value in module.named_parameters()
        }

    @property
    def buffers(self) -> dict[str, Tensor]:
        """What else changes in a training, or must be as it was to go on with one, by name."""
        return {
            f"rounding:{part}.{name}": value
            for part, module in self._modules
            for name, value in module.named_buffers()
        }

    @property
    def _modules(self) -> list[tuple[str, nn.Module]]:
        ranges = None if self.activations is None else self.activations.ranges
        named = (("weights", self._steps), ("activations", ranges))
        return [(name, module) for name, module in named if module is not None]

    @contextmanager
    def showing(self) -> Iterator[None]:
        """Within the block the model has rounded weights, and rounds its activations."""
        if self.activations is None:
            with self.showing_weights():
                yield
        else:
            with self.showing_weights(), self.activations.showing():
                yield

    @contextmanager
    def showing_weights(self) -> Iterator[None]:
        """Within the block the model has rounded weights."""
        self._floats = [layer.weight.detach().clone() for layer in self.layers]
        self.round_()
        try:
            yield
        finally:
            with torch.no_grad():
                for layer, value in zip(self.layers, self._floats, strict=True):
                    layer.weight.copy_(value)
            self._floats = []

    def pull_back_(self) -> None:
        """Give weights and steps their own gradients; called while rounded weights are shown."""
        if self._steps is not None:
            for number, value in enumerate(self._floats):
                self._steps.pull_back_(number, value)

    def round_(self) -> None:
        """Round the weights in place."""
        with torch.no_grad():
            for number, layer in enumerate(self.layers):
                layer.weight.copy_(self._rounded(number, layer))

    def settle_(self) -> None:
        """After new weights and steps: keep to grids that can be found again."""
        if self._steps is not None:
            self._steps.settle_()
        if self.activations is not None:
            self.activations.ranges.settle_()

    def collapsed(self) -> str:
        """What to say of a learned step that is next to nothing; "" where there is none."""
        found = "" if self._steps is None else self._steps.collapsed()
        if not found and self.activations is not None:
            found = self.activations.ranges.collapsed()
        return found

    def _rounded(self, number: int, layer: RoundedLayer) -> Tensor:
        weight = layer.weight.detach()
        if self._steps is not None:
            return self._steps.rounded(number, weight)
        return on_grid(
            weight,
            axis=layer.axis,
            top=layer.top,
            block_size=layer.block_size,
            has_short_blocks=layer.has_short_blocks,
        )

    @property
    def summary(self) -> str:
        """How many layers are seen at how many bits, for a message."""
        bits = [layer.bits for layer in self.layers]
        parts = [f"{bits.count(size)} at {size} bits" for size in sorted(set(bits))]
        told = f"weights of {len(bits)} layers are seen rounded while they are trained: "
        left = f"; as they are: {', '.join(self.left)}, whose weights are computed at each call"
        text = told + ", ".join(parts) + (left if self.left else "")
        if self._steps is not None:
            text += "; their steps are learned"
        return text if self.activations is None else f"{text}; {self.activations.summary}"


def make_rounder(
    model: nn.Module, settings: Rounding, call: Call, example: Mapping[str, Tensor]
) -> Rounder:
    """The weights of a model's convolutions and linear layers, each with its grid.

    The first and the last layer are those of the order in which the model calls them. A weight
    that several layers share is rounded once, as the first of them has it. Depthwise convolutions,
    which no target stores in 4 bits, have 8. Weights that are computed at each call (weight norm)
    are left, and named.
    Raises: StepError for "auto" precision, which only a strategy can resolve, for a pattern that
    matches no layer, and where no layer is left to round.
    """
    if settings.precision not in _BITS:
        raise StepError(
            f'rounding: precision is "{settings.precision}", which only a strategy makes something '
            'of, from its quantize step; a training on its own needs "int8" or "int4"'
        )
    called = _in_order(model, call, example)
    chosen = _precisions(dict(called), settings)
    layers: list[RoundedLayer] = []
    left: list[str] = []
    seen: set[int] = set()
    for path, module in called:
        bits = _BITS.get(chosen[path], 0)
        if bits and not isinstance(module.weight, nn.Parameter):
            left.append(path)
        elif bits and id(module.weight) not in seen:
            seen.add(id(module.weight))
            layers.append(_layer(path, module, bits, settings))
    if not layers:
        raise StepError(
            "rounding: no convolution or linear layer is left to round; change its overrides, or "
            "take 'rounding' out of the training's settings"
        )
    steps = WeightSteps(layers) if settings.method == "lsq" else None
    return Rounder(layers, left, steps=steps)


def _layer(path: str, module: Any, bits: int, settings: Rounding) -> RoundedLayer:
    is_matrix = isinstance(module, nn.Linear)
    is_reduced = bits == 8 and settings.is_range_reduced
    return RoundedLayer(
        path=path,
        weight=module.weight,
        axis=1 if isinstance(module, _TRANSPOSED) else 0,
        bits=bits,
        # Reduced weights keep to -64..64, which is ONNX Runtime's own range for them.
        top=64 if is_reduced else 2 ** (bits - 1) - 1,
        block_size=settings.block_size if is_matrix and bits == 4 else 0,
        has_short_blocks=settings.has_short_blocks,
    )


def _precisions(called: dict[str, Any], settings: Rounding) -> dict[str, str]:
    """The precision of every layer that can be rounded, by its path."""
    ends = {next(iter(called), ""), next(reversed(called), "")}
    keeps_ends = settings.precision == "int4" and settings.keep_first_last_int8
    paths = [path for path, module in called.items() if _is_rounded(module)]
    chosen = dict.fromkeys(called, "float")
    for path in paths:
        is_kept = (keeps_ends and path in ends) or _is_depthwise(called[path])
        chosen[path] = "int8" if is_kept else settings.precision
    for override in settings.overrides:
        pattern = compiled_pattern("rounding: override", override.pattern)
        matched = [path for path in called if pattern.search(f"{path}.weight")]
        if not matched:
            raise StepError(
                f"rounding: override '{override.pattern}' matches no layer"
                f"{nearest_paths(override.pattern, paths)}"
            )
        chosen.update(
            dict.fromkeys((path for path in matched if path in paths), override.precision)
        )
    return chosen


def _is_rounded(module: nn.Module) -> bool:
    if isinstance(module, _TRANSPOSED):
        return module.groups == 1
    return isinstance(module, (*_CONVOLUTIONS, nn.Linear))


def _is_depthwise(module: nn.Module) -> bool:
    return isinstance(module, _CONVOLUTIONS) and module.groups > 1 and module.weight.shape[1] == 1


def _in_order(model: nn.Module, call: Call, example: Mapping[str, Tensor]) -> list[tuple[str, Any]]:
    """Layers with weights by path, in the order of their first call."""
    kinds = (*_CONVOLUTIONS, *_TRANSPOSED, nn.Linear, nn.Embedding)
    names: dict[nn.Module, str] = {
        module: path for path, module in model.named_modules() if isinstance(module, kinds)
    }
    found: dict[nn.Module, str] = {}

    def note(module: nn.Module, *_: Any) -> None:
        found.setdefault(module, names[module])

    modes = training_modes(model)
    model.eval()
    hooks = [module.register_forward_pre_hook(note) for module in names]
    try:
        with torch.no_grad(), fast_path_off():
            call(model, example)
    finally:
        for hook in hooks:
            hook.remove()
        restore_modes(modes)
    return [(path, module) for module, path in found.items()]
