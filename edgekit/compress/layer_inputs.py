"""What linear layers and convolutions multiply their weights with, on calibration data.

A convolution is a linear map of its unfolded input: one vector for each place that the kernel
stands on, with the inputs of all its taps, padding included. Sums are gathered while the model
runs; the vectors themselves are never kept.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from edgekit.compress.bench import Bench
from edgekit.compress.judge import restore_modes, training_modes
from edgekit.compress.moments import MOMENT_BYTES, fast_path_off, input_batches
from edgekit.compress.sparsity.sparse_layers import SparseWeight
from edgekit.core.errors import StepError

# Unfolded inputs that are held at once.
_UNFOLDED_BYTES = 128 * 2**20
_FLOAT_BYTES, _DOUBLE_BYTES = 4, 8


@dataclass(frozen=True, slots=True, kw_only=True)
class InputSums:
    """Sums over all vectors that came into a layer, for each group of a convolution.

    Shapes: squares (groups, columns); products, the outer products, (groups, columns, columns), or
    None where they were not asked for. float64.
    """

    vectors: int
    squares: Tensor
    products: Tensor | None


def gather(
    bench: Bench, model: nn.Module, weights: Sequence[SparseWeight], *, has_products: bool
) -> dict[str, InputSums]:
    """The sums of each layer by the weight's name; layers that are never called are left out.

    Raises: StepError for a layer that gets NaN or infinity.
    """
    meters = {item.name: _Meter(item, has_products=has_products) for item in weights}
    run_watched(bench, model, meters.values())
    found = {name: meter.sums() for name, meter in meters.items()}
    return {name: sums for name, sums in found.items() if sums is not None}


class Meter(Protocol):
    """Sees what a layer gets, as long as its hook is there."""

    def attach(self) -> torch.utils.hooks.RemovableHandle:
        """Hook it to its layer."""
        ...


def run_watched(bench: Bench, model: nn.Module, meters: Iterable[Meter]) -> None:
    """Run a model in eval mode over the calibration data with meters attached."""
    modes = training_modes(model)
    model.eval()
    hooks = [meter.attach() for meter in meters]
    try:
        with torch.no_grad(), fast_path_off():
            for inputs in input_batches(bench):
                bench.call(model, inputs)
    finally:
        for hook in hooks:
            hook.remove()
        restore_modes(modes)


def in_groups(
    weights: Sequence[SparseWeight], limit_bytes: int = MOMENT_BYTES
) -> Iterator[list[SparseWeight]]:
    """Layers in groups whose products fit into memory together; a large one goes alone."""
    group: list[SparseWeight] = []
    filled = 0
    for weight in weights:
        columns = weight.matrix(weight.parameter).shape[1]
        needed = _DOUBLE_BYTES * weight.groups * columns**2
        if group and filled + needed > limit_bytes:
            yield group
            group, filled = [], 0
        group.append(weight)
        filled += needed
    if group:
        yield group


def input_vectors(weight: SparseWeight, given: Tensor) -> Iterator[Tensor]:
    """What a layer multiplies its weight with, in parts that fit into memory.

    Shapes: (..., inputs) of a linear layer or (n, channels, ...) of a convolution -> (groups,
    vectors, columns), columns as ``SparseWeight.matrix`` has them.
    """
    module = weight.module
    if not isinstance(module, (nn.Conv1d, nn.Conv2d)):
        yield given.reshape(1, -1, given.shape[-1]).float()
        return
    if given.ndim == len(module.kernel_size) + 1:  # a sample without a batch axis
        given = given.unsqueeze(0)
    padded = _padded(module, given.float())
    kernel, dilation, stride = module.kernel_size, module.dilation, module.stride
    if padded.ndim == 3:  # one axis: unfold knows two
        padded = padded.unsqueeze(2)
        kernel, dilation, stride = (1, *kernel), (1, *dilation), (1, *stride)
    taps = kernel[0] * kernel[1]
    one = _FLOAT_BYTES * taps * padded[0].numel() // (stride[0] * stride[1])
    for part in torch.split(padded, max(1, _UNFOLDED_BYTES // max(1, one))):
        # (n, channels x taps, places)
        rows = functional.unfold(part, kernel, dilation=dilation, stride=stride)
        split = rows.reshape(len(part), module.groups, -1, taps, rows.shape[-1])
        yield split.permute(1, 0, 4, 3, 2).flatten(1, 2).flatten(2)


def _padded(module: nn.Conv1d | nn.Conv2d, given: Tensor) -> Tensor:
    """The input with what the convolution puts around it."""
    if isinstance(module.padding, str):
        # "same" and "valid" as torch computed them for each side
        sides = list(module._reversed_padding_repeated_twice)  # noqa: SLF001
    else:
        sides = [size for size in reversed(module.padding) for _ in range(2)]
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    return functional.pad(given, sides, mode=mode) if any(sides) else given


class _Meter:
    """Adds up what one layer gets."""

    def __init__(self, weight: SparseWeight, *, has_products: bool) -> None:
        self._weight, self._has_products = weight, has_products
        self._vectors = 0
        self._squares: Tensor | None = None
        self._products: Tensor | None = None

    def attach(self) -> torch.utils.hooks.RemovableHandle:
        return self._weight.module.register_forward_pre_hook(self._see, with_kwargs=True)

    def _see(self, _: nn.Module, args: tuple[Any, ...], named: Mapping[str, Any]) -> None:
        given: Tensor = args[0] if args else next(iter(named.values()))
        for vectors in input_vectors(self._weight, given):
            self._vectors += vectors.shape[1]
            # The sums of one batch lose little in float32; over all batches they would.
            squares = vectors.square().sum(dim=1).double()
            self._squares = squares if self._squares is None else self._squares + squares
            if self._has_products:
                products = (vectors.transpose(1, 2) @ vectors).double()
                self._products = products if self._products is None else self._products + products

    def sums(self) -> InputSums | None:
        """What was added up; None for a layer that was never called."""
        if self._squares is None:
            return None
        if not bool(self._squares.isfinite().all()):
            raise StepError(
                f"layer '{self._weight.path}' gets NaN or infinity on the calibration data; check "
                "the weights and the samples"
            )
        return InputSums(vectors=self._vectors, squares=self._squares, products=self._products)
