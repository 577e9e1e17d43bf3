"""Rotations merged into the weights of a model, norms' weights first."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from edgekit.compress.quantization.hadamard import mean_keeping_rotation, spreading_rotation
from edgekit.compress.quantization.rotation_flow import Fold, Leaf, Space
from edgekit.compress.quantization.rotation_stream import Read, Stream, Turned, holders_of


@torch.no_grad()
def rotate_streams_(
    model: nn.Module, streams: Sequence[Stream], generator: torch.Generator
) -> None:
    """Rotate each stream by a matrix of its own. The streams are of this very model."""
    spaces = {id(stream.space) for stream in streams}
    plans = [_untied(model, stream) for stream in streams]
    turned = [list(stream.turned) for stream in plans]
    made: list[tuple[Leaf, Space]] = []
    for stream in plans:
        for read in stream.reads:
            made += _fold(model, read)
        for fold in {read.fold.key: read.fold for read in stream.reads}.values():
            _clear(fold)
    for leaf, space in made:
        if id(space) in spaces:
            place = next(at for at, stream in enumerate(streams) if stream.space is space)
            turned[place].append(Turned(leaf=leaf, axis=0))
    for stream, items in zip(plans, turned, strict=True):
        make = mean_keeping_rotation if stream.space.keeps_ones else spreading_rotation
        matrix = make(stream.space.size, generator)
        for item in items:
            turn_(item.leaf.value, item.axis, matrix)


def turn_(value: Tensor, axis: int, matrix: Tensor) -> None:
    """Rotate one axis in place: every vector along it is multiplied with the matrix.

    Shapes: matrix (size of the axis, the same).
    """
    rotated = value.movedim(axis, -1).cpu().double() @ matrix
    value.copy_(rotated.movedim(-1, axis))


def _untied(model: nn.Module, stream: Stream) -> Stream:
    """The stream with a new weight for each output layer that shared the embedding's."""
    reads, turned = list(stream.reads), list(stream.turned)
    for place, read in enumerate(reads):
        if read.leaf.name not in stream.tied:
            continue
        holders = holders_of(model, read.leaf.value)
        path, module, key = next(item for item in holders if isinstance(item[1], nn.Linear))
        own = nn.Parameter(
            read.leaf.value.detach().clone(), requires_grad=read.leaf.value.requires_grad
        )
        module.register_parameter(key, own)
        leaf = Leaf(name=f"{path}.{key}", value=own)
        reads[place] = Read(
            leaf=leaf, axis=read.axis, fold=read.fold, bias=read.bias, outputs=read.outputs
        )
        turned.append(Turned(leaf=leaf, axis=read.axis))
    return Stream(
        space=stream.space,
        turned=tuple(turned),
        reads=tuple(reads),
        tied=stream.tied,
        layers=stream.layers,
    )


def _fold(model: nn.Module, read: Read) -> list[tuple[Leaf, Space]]:
    """Put a norm into a layer that reads it. Biases that had to be made, with their spaces."""
    made: list[tuple[Leaf, Space]] = []
    weight = read.leaf.value
    columns = weight.movedim(read.axis, -1).cpu().double()
    shift, scale = read.fold.bias, read.fold.weight
    if shift is not None and bool(shift.value.any()):
        bias = read.bias
        if bias is None:
            bias = _new_bias(model, read)
            made.append((bias, read.outputs))
        added = columns @ shift.value.cpu().double()
        bias.value.copy_(bias.value.cpu().double() + added)
    if scale is not None:
        columns = columns * (scale.value.cpu().double() + read.fold.plus)
        weight.copy_(columns.movedim(-1, read.axis))
    return made


def _new_bias(model: nn.Module, read: Read) -> Leaf:
    holders = holders_of(model, read.leaf.value)
    path, module, _ = next(item for item in holders if isinstance(item[1], nn.Linear))
    bias = nn.Parameter(
        read.leaf.value.new_zeros(read.outputs.size), requires_grad=read.leaf.value.requires_grad
    )
    module.register_parameter("bias", bias)
    return Leaf(name=f"{path}.bias", value=bias)


def _clear(fold: Fold) -> None:
    """A norm whose weight and bias are in its readers."""
    if fold.weight is not None:
        fold.weight.value.fill_(1 - fold.plus)
    if fold.bias is not None:
        fold.bias.value.zero_()
