"""Facts of a model as they would be with fewer channels, fewer blocks or thinner factors.

Only shapes and module paths are known here, so all of it is an estimate: channels are followed
from each layer to the next one, as in a chain.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from edgekit.core.facts import LayerFact, ModelFacts

_INDEX = re.compile(r"(?:^|\.)(\d+)(?=\.|$)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A repeated part of a model with two layers or more. keeps_shape: it can be left out."""

    path: str
    parameters: int
    macs: int
    layers: int
    keeps_shape: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Width:
    """What share of the channels of each layer stays.

    ratio: of layers without a share of their own. own: by module path, of those that have one.
    multiple: channel counts are rounded to it. heads, neurons: in a transformer, of attention
    heads and of the neurons between linear layers; None goes with ratio.
    """

    ratio: float
    own: Mapping[str, float]
    multiple: int = 1
    heads: float | None = 1.0
    neurons: float | None = 1.0


def blocks_of(facts: ModelFacts) -> tuple[Block, ...]:
    """The smallest repeated parts that hold two layers with weights or more."""
    found: dict[str, list[LayerFact]] = {}
    for layer in facts.layers:
        for match in _INDEX.finditer(layer.module_path):
            found.setdefault(layer.module_path[: match.end()], []).append(layer)
    whole = {path: layers for path, layers in found.items() if len(layers) > 1}
    inner = {path for path in whole if not any(is_inside(other, path) for other in whole)}
    return tuple(_block(path, layers) for path, layers in whole.items() if path in inner)


def without_blocks(facts: ModelFacts, blocks: Sequence[Block]) -> ModelFacts:
    """The facts of the model with these blocks left out."""
    paths = [block.path for block in blocks]

    def stays(module_path: str) -> bool:
        return not any(module_path == path or is_inside(module_path, path) for path in paths)

    gone = sum(block.parameters for block in blocks)
    return replace(
        facts,
        parameters=facts.parameters - gone,
        weight_bytes=max(0, facts.weight_bytes - 4 * gone),
        macs=facts.macs - sum(block.macs for block in blocks),
        operators=tuple(item for item in facts.operators if stays(item.module_path)),
        layers=tuple(item for item in facts.layers if stays(item.module_path)),
    )


def scaled(facts: ModelFacts, share: float) -> ModelFacts:
    """The facts of a model that keeps a share of its weights, every layer alike."""
    root = math.sqrt(share)
    layers = tuple(_scaled_layer(layer, share, root) for layer in facts.layers)
    return _with_layers(facts, layers, outside=root)


def narrowed(facts: ModelFacts, width: Width) -> ModelFacts:
    """The facts of a model whose layers keep a share of their channels."""
    transformer = facts.family == "transformer"
    shares = (_in_transformer if transformer else _in_chain)(facts.layers, width)
    layers = tuple(
        _scaled_layer(layer, inside * outside, outside)
        for layer, (inside, outside) in zip(facts.layers, shares, strict=True)
    )
    mean = sum(outside for _, outside in shares) / max(1, len(shares))
    return _with_layers(facts, layers, outside=1.0 if transformer else mean)


def narrowed_to(
    facts: ModelFacts, width: Width, cost: Callable[[ModelFacts], float], limit: float
) -> ModelFacts:
    """The widest of such models that costs no more than the limit; else the narrowest."""
    low, high = 0.0, 1.0
    for _ in range(20):
        middle = (low + high) / 2
        is_within = cost(narrowed(facts, replace(width, ratio=middle))) <= limit
        low, high = (middle, high) if is_within else (low, middle)
    return narrowed(facts, replace(width, ratio=low))


def split(facts: ModelFacts, shares: Mapping[str, tuple[float, int]]) -> ModelFacts:
    """The facts of a model whose layers became products of thinner ones.

    shares: by module path, what share of the parameters stays, and in how many layers.
    """
    layers: list[LayerFact] = []
    for layer in facts.layers:
        share, parts = shares.get(layer.module_path, (1.0, 1))
        layers += [_scaled_layer(layer, share / parts, 1.0)] * parts
    return _with_layers(facts, tuple(layers), outside=1.0)


def is_inside(path: str, block: str) -> bool:
    """Whether a module is part of a block."""
    return path.startswith(f"{block}.")


def _block(path: str, layers: Sequence[LayerFact]) -> Block:
    return Block(
        path=path,
        parameters=sum(layer.parameters for layer in layers),
        macs=sum(layer.macs for layer in layers),
        layers=len(layers),
        keeps_shape=_inputs(layers[0]) == _outputs(layers[-1]),
    )


def _inputs(layer: LayerFact) -> int:
    if layer.kind == "depthwise" or len(layer.weight_shape) < 2:
        return _outputs(layer)
    return layer.weight_shape[1]


def _outputs(layer: LayerFact) -> int:
    return layer.weight_shape[0] if layer.weight_shape else 1


def _scaled_layer(layer: LayerFact, share: float, outside: float) -> LayerFact:
    shape = layer.weight_shape
    if shape and layer.kind != "embedding":
        shape = (max(1, round(shape[0] * outside)), *shape[1:])
    return replace(
        layer,
        weight_shape=shape,
        parameters=math.ceil(layer.parameters * share),
        macs=math.ceil(layer.macs * share),
    )


def _with_layers(facts: ModelFacts, layers: tuple[LayerFact, ...], *, outside: float) -> ModelFacts:
    """outside: the share that stays of parameters outside layers, and of activations."""
    before = sum(layer.parameters for layer in facts.layers)
    after = sum(layer.parameters for layer in layers)
    parameters = after + math.ceil(max(0, facts.parameters - before) * outside)
    work = sum(layer.macs for layer in facts.layers)
    left = sum(layer.macs for layer in layers)
    return replace(
        facts,
        parameters=parameters,
        weight_bytes=math.ceil(facts.weight_bytes * parameters / max(1, facts.parameters)),
        macs=left + math.ceil(max(0, facts.macs - work) * outside),
        peak_activation_bytes=math.ceil(facts.peak_activation_bytes * outside),
        layers=layers,
    )


def _in_chain(layers: Sequence[LayerFact], width: Width) -> list[tuple[float, float]]:
    """(share of the inputs, share of the outputs) that stays of each layer."""
    found: list[tuple[float, float]] = []
    before = 1.0
    for index, layer in enumerate(layers):
        if layer.kind == "depthwise":
            found.append((1.0, before))
            continue
        is_last = index == len(layers) - 1
        after = 1.0 if is_last else _kept(layer, width)
        found.append((before, after))
        before = after
    return found


def _kept(layer: LayerFact, width: Width) -> float:
    """The share of a layer's channels that stays once their count is rounded."""
    share = width.own.get(layer.module_path, width.ratio)
    if share >= 1:
        return 1.0
    channels, step = _outputs(layer), width.multiple
    while step > 1 and channels < 2 * step:
        step //= 2
    kept = math.floor(channels * share / step + 0.5) * step
    return min(max(kept, step), channels) / channels


def _in_transformer(layers: Sequence[LayerFact], width: Width) -> list[tuple[float, float]]:
    """Heads and neurons go on one side of each layer that has them; the model's own width stays."""
    shapes = {layer.weight_shape for layer in layers if layer.kind == "linear"}
    found = []
    for layer in layers:
        role = _role(layer, shapes)
        share: float | None = {"neurons": width.neurons, "heads": width.heads}.get(role, 1.0)
        if role:
            share = width.own.get(layer.module_path, share)
        found.append((1.0, width.ratio if share is None else share))
    return found


def _role(layer: LayerFact, shapes: set[tuple[int, ...]]) -> str:
    if layer.kind != "linear" or not _INDEX.search(layer.module_path):
        return ""
    rows, columns = layer.weight_shape[0], layer.weight_shape[-1]
    return "neurons" if rows != columns and (columns, rows) in shapes else "heads"
