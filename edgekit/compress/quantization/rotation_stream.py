"""Streams of a model whose channels can be rotated: all that writes into one, all that reads it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from edgekit.compress.bench import Call
from edgekit.compress.moments import fast_path_off
from edgekit.compress.quantization.rotation_flow import Fold, Leaf, Matrix, Space, Use
from edgekit.compress.quantization.rotation_record import Record
from edgekit.compress.quantization.rotation_trace import StreamTrace

_ELSEWHERE = "'{name}' is used in another way as well"


@dataclass(frozen=True, slots=True, kw_only=True)
class Turned:
    """An axis of a parameter or buffer that is rotated."""

    leaf: Leaf
    axis: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """A weight that reads a stream through a norm, whose weight and bias go into it.

    axis: of the stream's channels. bias: of the same layer; None where it has none. outputs: the
    space of what the layer gives.
    """

    leaf: Leaf
    axis: int
    fold: Fold
    bias: Leaf | None
    outputs: Space


@dataclass(frozen=True, slots=True, kw_only=True)
class Stream:
    """Channels that are rotated together.

    tied: of weights that read it through a norm and write into it too, which must become two.
    layers: how many read it.
    """

    space: Space
    turned: tuple[Turned, ...]
    reads: tuple[Read, ...]
    tied: tuple[str, ...]
    layers: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundStreams:
    """left: by name, streams that cannot be rotated, and the first reason."""

    streams: tuple[Stream, ...]
    left: Mapping[str, str]


def find_streams(
    model: nn.Module,
    call: Call,
    example: Mapping[str, Tensor],
    *,
    masks: Iterable[str] = (),
    may_untie: bool = False,
) -> FoundStreams:
    """The streams of a model in eval mode. masks: of parameters whose zeros must stay."""
    trace = StreamTrace(model)
    with torch.no_grad(), fast_path_off(), trace:
        outputs = call(model, example)
    trace.finish(outputs)
    plan = _Plan(model, trace.record, frozenset(masks), may_untie=may_untie)
    spaces = plan.rotatable()
    return FoundStreams(
        streams=tuple(plan.stream(space) for space in spaces),
        left={
            f"the {space.size} channels of {space.name}": next(iter(space.obstacles))
            for space in plan.streams
            if space.obstacles
        },
    )


def holders_of(model: nn.Module, parameter: Tensor) -> list[tuple[str, nn.Module, str]]:
    """Every module that has a parameter, with its path and its own name for it."""
    return [
        (path, module, key)
        for path, module in model.named_modules()
        for key, value in module._parameters.items()  # noqa: SLF001
        if value is parameter
    ]


class _Plan:
    """Which of the spaces that a trace has seen can be rotated."""

    def __init__(
        self, model: nn.Module, record: Record, masks: frozenset[str], *, may_untie: bool
    ) -> None:
        self._model, self._record, self._masks = model, record, masks
        self._may_untie = may_untie
        self._tied: dict[str, Space] = {}
        roots = {id(space.root): space.root for space in record.spaces}
        firsts = {id(space.root): space.name for space in reversed(record.spaces)}
        for key, root in roots.items():
            root.name = firsts[key]
        self.streams = [space for space in roots.values() if space.is_stream]

    def rotatable(self) -> list[Space]:
        """The spaces without an obstacle; those that their parameters give are found here."""
        for space in self.streams:
            self._check_space(space)
        while True:
            free = [space for space in self.streams if not space.obstacles]
            for name, uses in self._record.uses.items():
                self._check_uses(name, uses, free)
            if not any(space.obstacles for space in free):
                return free

    def stream(self, space: Space) -> Stream:
        """What is rotated with a space."""
        turned = {
            (use.leaf.name, side.axis): Turned(leaf=use.leaf, axis=side.axis)
            for use in self._uses
            for side in use.sides
            if side.space.root is space and not use.is_fold
        }
        readers = self._readers(space)
        reads = {
            item.weight.name: Read(
                leaf=item.weight,
                axis=item.inputs.axis,
                fold=item.inputs.fold,
                bias=item.bias,
                outputs=item.outputs.space.root,
            )
            for item in readers
            if item.inputs is not None and item.inputs.fold is not None
        }
        return Stream(
            space=space,
            turned=tuple(turned.values()),
            reads=tuple(reads.values()),
            tied=tuple(name for name, owner in self._tied.items() if owner is space),
            layers=tuple(dict.fromkeys(item.weight.name for item in readers)),
        )

    @property
    def _uses(self) -> list[Use]:
        return [use for uses in self._record.uses.values() for use in uses]

    def _readers(self, space: Space) -> list[Matrix]:
        return [
            item
            for item in self._record.matrices
            if item.inputs is not None and item.inputs.space.root is space
        ]

    def _check_space(self, space: Space) -> None:
        readers = self._readers(space)
        if not readers or space.size == 1:
            space.block("no linear layer reads it")
        for item in readers:
            fold = None if item.inputs is None else item.inputs.fold
            is_shifted = fold is not None and fold.bias is not None
            if is_shifted and item.bias is None and not self._can_get_bias(item.weight):
                space.block(f"'{item.weight.name}' has no bias for that of the norm to go into")
        for name, value in self._model.named_parameters():
            if space.size in value.shape and name not in self._record.uses:
                space.block(
                    f"'{name}' takes no part in a run on the calibration data, and may read it on "
                    "others"
                )

    def _can_get_bias(self, weight: Leaf) -> bool:
        holders = [module for _, module, _ in holders_of(self._model, weight.value)]
        return [isinstance(item, nn.Embedding) for item in holders].count(False) == 1 and any(
            isinstance(item, nn.Linear) for item in holders
        )

    def _check_uses(self, name: str, uses: Sequence[Use], free: Sequence[Space]) -> None:
        """Block the spaces of a parameter that cannot be changed for all of its uses at once."""
        touched = {id(side.space.root): side.space.root for use in uses for side in use.sides}
        faced = [space for key, space in touched.items() if space in free]
        if not faced and not self._is_shifted(name, free):
            return
        blocked = faced or list(free)
        if name in self._masks:
            _block(blocked, f"'{name}' has zeros that must stay, which a rotation would fill")
        if len({use.signature(free) for use in uses}) == 1:
            return
        why = self._why_not_tied(name, uses)
        if why:
            _block(blocked, why)
        else:
            self._tied[name] = faced[0]

    def _is_shifted(self, name: str, free: Sequence[Space]) -> bool:
        """Whether it is a bias that a norm's bias goes into."""
        return any(
            item.bias is not None
            and item.bias.name == name
            and item.inputs is not None
            and item.inputs.fold is not None
            and item.inputs.fold.bias is not None
            and item.inputs.space.root in free
            for item in self._record.matrices
        )

    def _why_not_tied(self, name: str, uses: Sequence[Use]) -> str:
        """Why an embedding and an output layer cannot each have a weight of their own."""
        sides = {(side.axis, id(side.space.root)) for use in uses for side in use.sides[:1]}
        if any(use.is_fold or use.beside or not use.sides for use in uses) or len(sides) != 1:
            return _ELSEWHERE.format(name=name)
        value = uses[0].leaf.value
        kinds = [type(module) for _, module, _ in holders_of(self._model, value)]
        if sorted(kind.__name__ for kind in kinds) != ["Embedding", "Linear"]:
            return _ELSEWHERE.format(name=name)
        if self._may_untie:
            return ""
        return (
            f"'{name}' is the embedding's weight and the output layer's, and the norm before that "
            "must go into the one alone; with may_untie = true they become two, which adds "
            f"{value.numel() * value.element_size():,} bytes of float weights"
        )


def _block(spaces: Iterable[Space], why: str) -> None:
    for space in spaces:
        space.block(why)
