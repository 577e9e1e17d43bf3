"""The layers whose weights can be stored in fewer bits, and what each form makes of a weight.

A form is a precision with all that decides its grid. What both targets can store is a form's; what
one of them cannot is refused for both, so that one plan serves both: LiteRT has no 4-bit depthwise
or transposed convolution, and makes depthwise ones of all that read a single channel.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from edgekit.compress.bench import Bench
from edgekit.compress.training.rounding import make_rounder, on_grid
from edgekit.core.errors import StepError
from edgekit.core.steps.rounding import Rounding

_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d)
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d)
_MATRICES = (nn.Linear, nn.Embedding)
# Both targets store the scale of a block as float16.
_SCALE_BYTES = 2
# Grids of four bits without blocks, from the full range to 0.3 of it; errors to this power are
# summed. Source: ``compile.onnx_grid``, where the measurements stand that chose them.
_SHARES = torch.linspace(1.0, 0.3, 141, dtype=torch.float64)
_ERROR_POWER = 3
EIGHT_BIT_HIGH = 127
FOUR_BIT_LOW, FOUR_BIT_HIGH = -8, 7


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """How a weight is stored. block_size: columns of a matrix that share a scale; 0 is none.

    8 bits are -127..127 on every target, so that all have one plan; ONNX Runtime's 7 on processors
    without VNNI double an error that is small beside that of 4 bits.
    """

    precision: str
    block_size: int = 0

    @property
    def name(self) -> str:
        """``int4``, or ``int4/32`` in blocks."""
        return f"{self.precision}/{self.block_size}" if self.block_size else self.precision

    def weight_bytes(self, weight: Tensor) -> int:
        """Bytes of a weight in a file, with the scales of its blocks."""
        bits = {"int4": 4, "int8": 8, "fp16": 16}[self.precision]
        scales = weight.numel() // self.block_size if self.block_size else 0
        return -(-weight.numel() * bits // 8) + _SCALE_BYTES * scales

    def stored(self, weight: Tensor, layer: "FormedLayer") -> Tensor:
        """The values that a file of this form holds of a weight. Shapes: the same."""
        if self.precision == "fp16":
            return weight.half().to(weight.dtype)
        if self.precision == "int8":
            return on_grid(weight, axis=layer.axis, top=EIGHT_BIT_HIGH)
        if self.block_size:
            return on_grid(weight, axis=layer.axis, top=FOUR_BIT_HIGH, block_size=self.block_size)
        return four_bits(weight, layer.axis)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FormedLayer:
    """One weight and the forms that it can have. others: paths of modules that share it."""

    path: str
    kind: str
    weight: nn.Parameter
    axis: int
    forms: tuple[Form, ...]
    others: tuple[str, ...] = ()


@dataclass(slots=True, kw_only=True)
class Refusals:
    """What is left out, and why. forms: by layer path and form. whole: layers, by path."""

    forms: dict[str, dict[str, str]] = field(default_factory=dict)
    whole: dict[str, str] = field(default_factory=dict)


def four_bits(weight: Tensor, axis: int) -> Tensor:
    """A weight on the best grid -8..7 of each channel, as exporters clip. Shapes: the same."""
    rows = weight.detach().movedim(axis, 0)
    shape = rows.shape
    rows = rows.flatten(1).double()
    largest = rows.abs().amax(dim=1, keepdim=True)
    full = torch.where(largest > 0, largest, torch.ones_like(largest)) / FOUR_BIT_HIGH
    best, least = rows, torch.full_like(full, torch.inf)
    for share in _SHARES.tolist():
        scale = full * share
        found = (rows / scale).round().clamp(FOUR_BIT_LOW, FOUR_BIT_HIGH) * scale
        lost = (found - rows).abs().pow(_ERROR_POWER).sum(dim=1, keepdim=True)
        best = torch.where(lost < least, found, best)
        least = torch.minimum(lost, least)
    return best.reshape(shape).movedim(0, axis).to(weight.dtype)


def formed_layers(
    model: nn.Module, forms: tuple[Form, ...], bench: Bench
) -> tuple[tuple[FormedLayer, ...], Refusals]:
    """The layers in the order of their first call, embeddings first, each with its forms.

    Raises: StepError for a model that has none.
    """
    refusals = Refusals()
    modules = dict(model.named_modules())
    owners = _owners(model)
    found: list[FormedLayer] = []
    for path, weight, axis in _weights(model, bench, refusals):
        module = modules[path]
        others = tuple(other for other in owners[id(weight)] if other != path)
        if not isinstance(module, (*_CONVOLUTIONS, *_TRANSPOSED, *_MATRICES)):
            refusals.whole[path] = f"{type(module).__name__} is not stored in integers by LiteRT"
            continue
        chosen = []
        for form in forms:
            why = _why_not(form, [modules[item] for item in (path, *others)])
            if why:
                refusals.forms.setdefault(path, {})[form.name] = why
            else:
                chosen.append(form)
        kind = _kind(module)
        found.append(
            FormedLayer(
                path=path, kind=kind, weight=weight, axis=axis, forms=tuple(chosen), others=others
            )
        )
    if not found:
        raise StepError(
            "sensitivity: the model has no convolution, linear layer or embedding whose weight "
            "could be stored in fewer bits; it needs a torch model with such layers"
        )
    return tuple(found), refusals


def _weights(
    model: nn.Module, bench: Bench, refusals: Refusals
) -> list[tuple[str, nn.Parameter, int]]:
    """(path, weight, axis of the output channels) of each weight once."""
    rounded: list[tuple[str, nn.Parameter, int]] = []
    if any(_is_rounded(item) for item in model.modules()):
        rounder = make_rounder(model, Rounding(precision="int8"), bench.call, bench.example())
        rounded = [(layer.path, layer.weight, layer.axis) for layer in rounder.layers]
        refusals.whole |= dict.fromkeys(rounder.left, "its weight is computed at each call")
    seen = {id(weight) for _, weight, _ in rounded}
    rows: list[tuple[str, nn.Parameter, int]] = []
    for path, module in model.named_modules():
        weight = module.weight if isinstance(module, nn.Embedding) else None
        if isinstance(weight, nn.Parameter) and id(weight) not in seen:
            seen.add(id(weight))
            rows.append((path, weight, 0))
    return [*rows, *rounded]


def _is_rounded(module: nn.Module) -> bool:
    return isinstance(module, (*_CONVOLUTIONS, *_TRANSPOSED, nn.Linear))


def _owners(model: nn.Module) -> Mapping[int, list[str]]:
    """The paths of the modules that have a weight, by the weight."""
    found: dict[int, list[str]] = {}
    for path, module in model.named_modules():
        weight = module._parameters.get("weight")  # noqa: SLF001  # of weight norm it is no parameter
        if weight is not None:
            found.setdefault(id(weight), []).append(path)
    return found


def _why_not(form: Form, modules: list[nn.Module]) -> str:
    """Why a weight of these modules cannot have a form on every target; "" where it can."""
    if form.precision != "int4":
        return ""
    for module in modules:
        if isinstance(module, _TRANSPOSED):
            return "LiteRT has no 4-bit transposed convolution"
        if isinstance(module, _CONVOLUTIONS) and module.groups > 1:
            return "LiteRT has no 4-bit depthwise or grouped convolution"
        if isinstance(module, _CONVOLUTIONS) and module.weight.shape[1] == 1:
            return "LiteRT makes it depthwise, as it reads one channel, and has none in 4 bits"
        if form.block_size and not isinstance(module, _MATRICES):
            return "blocks are of matrices alone"
        columns = module.weight.shape[-1] if isinstance(module, _MATRICES) else 0
        if form.block_size and columns % form.block_size:
            return f"{columns} columns are no blocks of {form.block_size}"
    return ""


def _kind(module: Any) -> str:
    if isinstance(module, nn.Linear):
        return "linear"
    if isinstance(module, nn.Embedding):
        return "embedding"
    is_depthwise = module.groups > 1 and module.weight.shape[1] == 1
    return "depthwise" if is_depthwise else "conv"
