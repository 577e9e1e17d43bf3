"""Small exported graphs to survey a compiler with: see make_operator_tables.py."""

import contextlib
import functools
import sys
import types
import unittest
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.export import ExportedProgram

SAMPLES_AN_OPERATOR = 2

_ACTIVATIONS = (
    *("relu", "relu6", "silu", "gelu", "hardswish", "hardsigmoid", "hardtanh", "leaky_relu"),
    *("elu", "selu", "celu", "mish", "softplus", "softsign", "logsigmoid", "tanh", "sigmoid"),
    *("glu", "hardshrink", "softshrink"),
)
_WITH_A_SCALAR = (
    *("add", "sub", "rsub", "mul", "div", "pow", "eq", "ne", "lt", "le", "gt", "ge"),
    *("remainder", "fmod", "floor_divide", "clamp_min", "clamp_max"),
)
_REDUCTIONS = ("sum", "mean", "amax", "amin", "any", "all", "prod", "argmax")


class _Call(torch.nn.Module):
    """One operator of the database on one sample, as a module that can be exported."""

    def __init__(
        self, function: Callable[..., Any], rest: tuple[Any, ...], named: dict[str, Any]
    ) -> None:
        super().__init__()
        self.function, self.rest, self.named = function, rest, named

    def forward(self, first: torch.Tensor) -> Any:
        """The operator on its first argument; the others are constants of the graph."""
        return self.function(first, *self.rest, **self.named)


def programs() -> Iterator[ExportedProgram]:
    """Small exported graphs: layers as networks have them, then torch's samples of everything."""
    yield from layers()
    for info in _operator_database():
        if not info.supports_dtype(torch.float32, "cpu"):
            continue
        samples = info.sample_inputs("cpu", torch.float32, requires_grad=False)
        for _, sample in zip(range(SAMPLES_AN_OPERATOR), samples, strict=False):
            if isinstance(sample.input, torch.Tensor):
                yield from _export(_Call(info.op, sample.args, sample.kwargs), sample.input)


def layers() -> Iterator[ExportedProgram]:
    """Graphs of single layers and of what networks do between them."""
    for function, first in _layers():
        yield from _export(_Call(function, (), {}), first)


def _operator_database() -> list[Any]:
    # The database's module imports a snapshot library for the tests in it, which none is run of.
    stand_in = types.ModuleType("expecttest")
    stand_in.TestCase = unittest.TestCase  # type: ignore[attr-defined]
    sys.modules.setdefault("expecttest", stand_in)
    from torch.testing._internal.common_methods_invocations import op_db  # noqa: PLC0415

    return list(op_db)


def _with_a_scalar(function: Callable[..., Any], first: torch.Tensor) -> Any:
    return function(first, 2.0)


def _layers() -> list[tuple[Callable[..., Any], torch.Tensor]]:
    nn = torch.nn
    image, sequence = torch.rand(2, 4, 8, 8), torch.rand(2, 5, 8)
    attention = nn.MultiheadAttention(8, 2, batch_first=True).eval()
    modules: list[tuple[Any, torch.Tensor]] = [
        (nn.Conv2d(4, 4, 3, padding=1), image),
        (nn.Conv2d(4, 4, 3, padding="same"), image),
        (nn.Conv2d(4, 4, 3, groups=4), image),
        (nn.ConvTranspose2d(4, 4, 2, stride=2), image),
        (nn.BatchNorm2d(4), image),
        (nn.BatchNorm1d(5), sequence),
        (nn.GroupNorm(2, 4), image),
        (nn.InstanceNorm2d(4), image),
        (nn.LayerNorm(8), sequence),
        (nn.RMSNorm(8), sequence),
        (nn.LSTM(8, 4, batch_first=True), sequence),
        (nn.GRU(8, 4, batch_first=True), sequence),
        (nn.RNN(8, 4, batch_first=True), sequence),
        (lambda x: attention(x, x, x), sequence),
        (nn.Dropout(), sequence),
        (nn.Flatten(), image),
        (nn.AdaptiveAvgPool2d(1), image),
        (nn.AdaptiveAvgPool2d((3, 3)), image),
        (nn.Upsample(scale_factor=2), image),
        (nn.Upsample(scale_factor=2, mode="bilinear"), image),
        (nn.Upsample(size=(16, 16), mode="bilinear", align_corners=True), image),
        (nn.Upsample(scale_factor=2, mode="bicubic"), image),
        (lambda x: torch.einsum("bij,bkj->bik", x, x), sequence),
        (lambda x: nn.functional.scaled_dot_product_attention(x, x, x), sequence),
        (lambda x: x @ x.transpose(1, 2), sequence),
        (lambda x: torch.bmm(x, x.transpose(1, 2)), sequence),
        (lambda x: x[0] @ x[0].t(), sequence),
        (lambda x: x.permute(0, 2, 1).contiguous().view(2, -1), sequence),
        (lambda x: x[:, 1:, ::2], sequence),
        (lambda x: x[:, -1], sequence),
        (lambda x: torch.cat([x, x], 1), sequence),
        (lambda x: torch.stack([x, x], 1), sequence),
        (lambda x: x.chunk(2, -1), sequence),
        (lambda x: x.split(4, -1), sequence),
        (lambda x: x.unbind(1), sequence),
        (lambda x: x.size(0) * x, sequence),
        (lambda x: torch.arange(5) + x.to(torch.int64)[0, 0, 0], sequence),
        (lambda x: torch.ones_like(x) + torch.zeros_like(x), sequence),
        (lambda x: x.to(torch.int32).to(torch.float32), sequence),
        (lambda x: x.type_as(x.int()), sequence),
        (lambda x: torch.ops.aten.to.dtype_layout(x, dtype=torch.int32), sequence),
        (lambda x: x & x, sequence > 0.5),
        (lambda x: x | x, sequence > 0.5),
        (lambda x: x ^ x, sequence > 0.5),
    ]
    modules += [(getattr(nn.functional, name), image) for name in _ACTIVATIONS]
    for name in _WITH_A_SCALAR:
        modules.append((functools.partial(_with_a_scalar, getattr(torch, name)), sequence))
    for name in _REDUCTIONS:
        reduction = getattr(torch, name)
        modules += [(reduction, sequence), (functools.partial(reduction, dim=1), sequence)]
    for module, _ in modules:
        if isinstance(module, torch.nn.Module):
            module.eval()
    return modules


def _export(call: _Call, first: torch.Tensor) -> Iterator[ExportedProgram]:
    with contextlib.suppress(Exception):  # a sample that torch cannot export tells us nothing
        yield torch.export.export(call.eval(), (first,))
