"""Layers as chains of thinner layers: what can become one, what it costs, how it is built.

Chains are ``nn.Sequential`` of ``nn.Linear`` or convolutions, so that they are written down,
exported and quantized like anything else.
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

Method = Literal["svd", "tucker"]
Convolution = nn.Conv1d | nn.Conv2d
_SIZES = (
    "in_features",
    "out_features",
    "in_channels",
    "out_channels",
    "kernel_size",
    "stride",
    "padding",
    "dilation",
    "groups",
    "padding_mode",
    "nx",
    "nf",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What a layer takes: parameters, and multiply-accumulates a sample."""

    parameters: int
    macs: float

    def is_below(self, other: "Cost") -> bool:
        """Whether it takes less of both."""
        return self.parameters < other.parameters and self.macs < other.macs


def method_of(layer: nn.Module) -> Method:
    """How a layer is decomposed: "tucker" for kernels of more than one tap, else "svd"."""
    is_kernel = isinstance(layer, (nn.Conv1d, nn.Conv2d)) and taps(layer) > 1
    return "tucker" if is_kernel else "svd"


def has_matrix(module: nn.Module) -> bool:
    """Whether a module has weights of its own that could be thought of as matrices."""
    own = module.parameters(recurse=False)
    return any(item.ndim >= 2 for item in own) or isinstance(module, (nn.Linear, nn.Conv1d))


def why_whole(layer: nn.Module) -> str:
    """Why a layer cannot be decomposed by what it is; "" if it can."""
    kind = type(layer).__name__
    if not isinstance(layer, (nn.Linear, nn.Conv1d, nn.Conv2d)) and not is_transposed(layer):
        return f"layers of class {kind} are not decomposed"
    if not has_plain_forward(layer):
        return f"layers of class {kind} compute in a way of their own"
    if "weight" not in layer._parameters:  # noqa: SLF001  # a parametrized weight is a property
        return "its weight is computed from others (a parametrization or a mask)"
    if isinstance(layer, (nn.Conv1d, nn.Conv2d)) and layer.groups > 1:
        depthwise = "depthwise" if layer.groups == layer.in_channels else "grouped"
        return f"a {depthwise} convolution has no channels to share"
    weight = layer.weight
    if not isinstance(weight, Tensor) or not weight.is_floating_point():
        return "its weight is not of floats"
    return ""


def has_plain_forward(layer: nn.Module) -> bool:
    """Whether a layer multiplies as its torch.nn class does, and not in a subclass's own way."""
    for kind in (nn.Linear, nn.Conv1d, nn.Conv2d):
        if isinstance(layer, kind):
            same_convolve = getattr(type(layer), "_conv_forward", None) is getattr(
                kind, "_conv_forward", None
            )
            return type(layer).forward is kind.forward and same_convolve
    return is_transposed(layer)


def is_transposed(layer: nn.Module) -> bool:
    """Whether it is the linear layer of GPT-2 in transformers, with its weight as (in, out)."""
    kind = type(layer)
    # By name: transformers need not be installed.
    return kind.__name__ == "Conv1D" and kind.__module__ == "transformers.pytorch_utils"


def taps(layer: Convolution) -> int:
    """Places of a kernel."""
    count = 1
    for length in layer.kernel_size:
        count *= length
    return count


def matrix_of(layer: nn.Module) -> Tensor:
    """The weight of a layer as a matrix, or a kernel unfolded. Shapes: (out, in x taps)."""
    weight = weight_of(layer)
    return weight.T if is_transposed(layer) else weight.flatten(1)


def weight_of(layer: nn.Module) -> Tensor:
    """The weight of a layer, without its history."""
    weight = layer.weight
    if not isinstance(weight, Tensor):  # why_whole sorted those out
        raise TypeError(type(weight).__name__)
    return weight.detach()


def bias_of(layer: nn.Module) -> Tensor | None:
    """The bias of a layer, without its history."""
    bias = layer.bias
    return bias.detach() if isinstance(bias, Tensor) else None


def whole_cost(layer: nn.Module, positions_out: float) -> Cost:
    """What a layer takes as it is. positions_out: pixels or tokens that it makes of a sample."""
    size = weight_of(layer).numel()
    bias = bias_of(layer)
    extra = 0 if bias is None else bias.numel()
    return Cost(parameters=size + extra, macs=size * positions_out)


def svd_cost(layer: nn.Module, rank: int, positions_out: float) -> Cost:
    """What a layer would take as two of this rank between them."""
    out_size, in_size = matrix_of(layer).shape
    size = rank * (out_size + in_size)
    bias = bias_of(layer)
    extra = 0 if bias is None else bias.numel()
    return Cost(parameters=size + extra, macs=size * positions_out)


def tucker_cost(
    layer: Convolution, ranks: tuple[int, int], positions_in: float, positions_out: float
) -> Cost:
    """What a convolution would take with these output and input ranks; a full rank takes nothing.

    The 1x1 convolution in front runs on the pixels that come in, before any stride.
    """
    out_rank, in_rank = ranks
    inner = 0 if in_rank == layer.in_channels else in_rank * layer.in_channels
    outer = 0 if out_rank == layer.out_channels else out_rank * layer.out_channels
    core = out_rank * in_rank * taps(layer)
    extra = 0 if layer.bias is None else layer.out_channels
    return Cost(
        parameters=inner + core + outer + extra,
        macs=inner * positions_in + (core + outer) * positions_out,
    )


def svd_chain(
    layer: nn.Module, left: Tensor, right: Tensor, bias: Tensor | None = None
) -> nn.Sequential:
    """A layer as two. bias: another one than the layer's own.

    Shapes: left (out, rank), right (rank, in).
    """
    bias = bias_of(layer) if bias is None else bias
    if isinstance(layer, (nn.Conv1d, nn.Conv2d)):
        ones = (1,) * len(layer.kernel_size)
        # A stride skips pixels; skipped first, they need not be multiplied at all.
        first = _convolution(layer, right.reshape(*right.shape, *ones), None, is_spatial=True)
        last = _convolution(layer, left.reshape(*left.shape, *ones), bias, is_spatial=False)
        return chain_of(layer, first, last)
    return chain_of(layer, _linear(layer, right, None), _linear(layer, left, bias))


def tucker_chain(layer: Convolution, out: Tensor, core: Tensor, inner: Tensor) -> nn.Sequential:
    """A convolution as up to three; a factor of full rank goes into the core.

    Stride, padding, dilation and the padding's mode stay with the core: a 1x1 convolution without
    a bias gives zeros of zeros, and copies of copied pixels.
    Shapes: out (out, p), core (p, q, ...), inner (q, in).
    """
    ones = (1,) * len(layer.kernel_size)
    parts: list[nn.Module] = []
    is_inner_full, is_out_full = inner.shape[0] == inner.shape[1], out.shape[0] == out.shape[1]
    if is_inner_full:
        core = torch.einsum("pq...,qi->pi...", core, inner)
    else:
        down = inner.reshape(*inner.shape, *ones)
        parts.append(_convolution(layer, down, None, is_spatial=False))
    if is_out_full:
        core = torch.einsum("op,pq...->oq...", out, core)
    parts.append(
        _convolution(layer, core, bias_of(layer) if is_out_full else None, is_spatial=True)
    )
    if not is_out_full:
        up = out.reshape(*out.shape, *ones)
        parts.append(_convolution(layer, up, bias_of(layer), is_spatial=False))
    return chain_of(layer, *parts)


def chain_of(layer: nn.Module, *parts: nn.Module) -> nn.Sequential:
    """Parts in the place of a layer, which tell its sizes as the layer did.

    Some models read them: a stride, to pad by themselves.
    """
    chain = nn.Sequential(*parts).train(layer.training)
    for name in _SIZES:
        if hasattr(layer, name):
            setattr(chain, name, getattr(layer, name))
    return chain


def replace_module(model: nn.Module, path: str, new: nn.Module) -> nn.Module:
    """The model with another module at a path, changed in place unless it is the model itself."""
    if not path:
        return new
    owner_path, _, name = path.rpartition(".")
    setattr(model.get_submodule(owner_path), name, new)
    _use_slow_path(model, path)
    return model


def _use_slow_path(model: nn.Module, path: str) -> None:
    """Make torch's transformer layers call their parts, whose weights they else read themselves."""
    parts = path.split(".")
    for length in range(len(parts)):
        above = model.get_submodule(".".join(parts[:length]))
        if isinstance(above, nn.TransformerEncoderLayer):
            above.activation_relu_or_gelu = 0  # what the layer looks at before it takes its path
        if isinstance(above, nn.TransformerEncoder):
            above.use_nested_tensor = False


def _linear(layer: nn.Module, weight: Tensor, bias: Tensor | None) -> nn.Linear:
    # On "meta" nothing is drawn from the global generator, which a step must leave alone.
    made = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    _fill_(made, layer, weight, bias)
    return made


def _convolution(
    layer: Convolution, kernel: Tensor, bias: Tensor | None, *, is_spatial: bool
) -> Convolution:
    """is_spatial: with the original's stride, padding and dilation."""
    spatial: dict[str, Any] = {}
    if is_spatial:
        spatial = {
            "stride": layer.stride,
            "padding": layer.padding,
            "dilation": layer.dilation,
            "padding_mode": layer.padding_mode,
        }
    kind = nn.Conv1d if isinstance(layer, nn.Conv1d) else nn.Conv2d
    made = kind(
        kernel.shape[1],
        kernel.shape[0],
        tuple(kernel.shape[2:]),  # type: ignore[arg-type]  # one length or two, as the layer has
        bias=bias is not None,
        device="meta",
        **spatial,
    )
    _fill_(made, layer, kernel, bias)
    return made


def _fill_(
    made: nn.Linear | Convolution, layer: nn.Module, weight: Tensor, bias: Tensor | None
) -> None:
    like = weight_of(layer)
    is_trained = bool(layer.weight.requires_grad)
    made.weight = _parameter(weight, like, is_trained)
    if bias is not None:
        made.bias = _parameter(bias, like, is_trained)


def _parameter(value: Tensor, like: Tensor, is_trained: bool) -> nn.Parameter:
    ready = value.to(device=like.device, dtype=like.dtype).contiguous().clone()
    return nn.Parameter(ready, requires_grad=is_trained)
