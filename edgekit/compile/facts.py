"""What planning needs to know of an exported program: operators, layers, work and memory."""

import hashlib
import math
import operator
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.fx import Node

from edgekit.core.facts import LayerFact, LayerKind, ModelFacts, ModelFamily, OperatorFact

FLOAT_BYTES = 4
# A network is a conv net when this much of its work is in convolutions, attention or not.
CONV_SHARE = 0.8

_CONV = ("conv1d", "conv2d", "conv3d", "convolution", "conv_transpose1d", "conv_transpose2d")
_MATMUL = ("matmul", "bmm", "mm")
_EINSUM = "einsum"
_RECURRENT = ("lstm", "gru", "rnn_tanh", "rnn_relu")


def operator_name(node: Node) -> str:
    """``aten.conv2d.default`` for a call of the graph."""
    return str(node.target)


def short_name(node: Node) -> str:
    """``conv2d`` for ``aten.conv2d.default``."""
    parts = operator_name(node).split(".")
    return parts[1] if len(parts) > 1 else parts[0]


def module_path(node: Node) -> str:
    """The path of the innermost module that made this call; "" for the model itself."""
    stack = node.meta.get("nn_module_stack") or {}
    return str(list(stack.values())[-1][0]) if stack else ""


def facts_of(program: ExportedProgram, *, batch: int) -> ModelFacts:
    """The numbers of a program that was exported at this batch size."""
    calls = [node for node in program.graph.nodes if node.op == "call_function"]
    parameters = dict(program.named_parameters())
    weights = {**dict(program.named_buffers()), **parameters}
    layers = tuple(_layers(program, batch))
    kept = _weight_shapes(program)
    products = sum(_product_macs(node, kept) for node in calls) // batch
    macs = sum(layer.macs for layer in layers) + products
    return ModelFacts(
        family=_family(calls, layers, macs),
        parameters=sum(value.numel() for value in parameters.values()),
        weight_bytes=sum(value.numel() * value.element_size() for value in weights.values()),
        macs=macs,
        peak_activation_bytes=_peak_activation_bytes(program) // batch,
        operators=tuple(_operators(calls)),
        layers=layers,
        source_format="torch",
        digest=digest_of_program(program),
    )


def digest_of_program(program: ExportedProgram) -> str:
    """sha256 of the graph's code, the ranges of its shapes, and every weight and constant."""
    digest = hashlib.sha256(program.graph_module.code.encode())
    for node in program.graph.nodes:
        if node.op == "placeholder" and isinstance(node.meta.get("val"), torch.Tensor):
            value = node.meta["val"]
            digest.update(
                f"|{node.name}:{value.dtype}{[str(size) for size in value.shape]}".encode()
            )
    tensors: dict[str, Any] = {**program.constants, **program.state_dict}
    for name in sorted(tensors):
        value = tensors[name]
        if isinstance(value, torch.Tensor):
            digest.update(f"|{name}:{value.dtype}{list(value.shape)}|".encode())
            digest.update(_tensor_bytes(value))
    return digest.hexdigest()


def _tensor_bytes(value: torch.Tensor) -> bytes:
    flat = value.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""


def _operators(calls: Iterable[Node]) -> Iterable[OperatorFact]:
    for node in calls:
        if hasattr(node.target, "_schema"):
            yield OperatorFact(operator=operator_name(node), module_path=module_path(node))


def weighted_modules(program: ExportedProgram) -> frozenset[str]:
    """The module paths of all layers with weights."""
    return frozenset(_module_of(node, sources) for node, _, sources in _weighted_calls(program))


def _layers(program: ExportedProgram, batch: int) -> Iterator[LayerFact]:
    weights = _weight_shapes(program)
    for node, kind, sources in _weighted_calls(program):
        yield LayerFact(
            module_path=_module_of(node, sources),
            kind=kind,
            weight_shape=_weight_shape(node, kind, weights, sources),
            parameters=sum(math.prod(weights[name]) for name in sources),
            macs=_layer_macs(node, kind, weights, sources) // batch,
        )


def _weighted_calls(program: ExportedProgram) -> Iterator[tuple[Node, LayerKind, list[str]]]:
    weights = _weight_shapes(program)
    for node in program.graph.nodes:
        if node.op != "call_function":
            continue
        kind = _kind(node, weights)
        sources = [item.name for item in node.all_input_nodes if item.name in weights]
        if kind is not None and sources:
            yield node, kind, sources


def _main(sources: list[str], weights: Mapping[str, tuple[int, ...]]) -> str:
    return max(sources, key=lambda name: len(weights[name]))


def _weight_shape(
    node: Node, kind: LayerKind, weights: Mapping[str, tuple[int, ...]], sources: list[str]
) -> tuple[int, ...]:
    found = weights[_main(sources, weights)]
    if len(found) > 1 or kind == "recurrent":
        return found
    # Only the bias is a parameter: the weight is computed at each call (weight norm, a mask).
    return _shape(node.all_input_nodes[2 if short_name(node) == "addmm" else 1])


def _module_of(node: Node, sources: list[str]) -> str:
    return module_path(node) or sources[0].removeprefix("p_")


def _weight_shapes(program: ExportedProgram) -> dict[str, tuple[int, ...]]:
    signature = program.graph_signature
    kept: Mapping[str, str] = {
        **signature.inputs_to_parameters,
        **signature.inputs_to_buffers,
        **signature.inputs_to_lifted_tensor_constants,
    }
    return {
        node.name: tuple(node.meta["val"].shape)
        for node in program.graph.nodes
        if node.op == "placeholder" and node.name in kept
    }


def _kind(node: Node, weights: Mapping[str, tuple[int, ...]]) -> LayerKind | None:
    name = short_name(node)
    if name in _CONV:
        return "depthwise" if _is_depthwise(node, weights) else "conv"
    if name in ("linear", "addmm"):
        return "linear"
    if name in (*_MATMUL, _EINSUM) and any(
        len(weights.get(item.name, ())) > 1 for item in node.all_input_nodes
    ):
        return "linear"
    if name == "embedding":
        return "embedding"
    return "recurrent" if name in _RECURRENT else None


def _is_depthwise(node: Node, weights: Mapping[str, tuple[int, ...]]) -> bool:
    """Whether every input channel is convolved alone: a (outputs, 1, ...) weight, many inputs."""
    if "transpose" in short_name(node):
        return False
    weight, channels = node.all_input_nodes[1], _shape(node.all_input_nodes[0])[1]
    shape = weights.get(weight.name, ())
    return len(shape) > 2 and shape[1] == 1 and channels > 1


def _layer_macs(
    node: Node, kind: LayerKind, weights: Mapping[str, tuple[int, ...]], sources: list[str]
) -> int:
    if kind == "embedding":
        return 0
    if kind == "recurrent":
        steps = math.prod(_shape(node.all_input_nodes[0])[:-1])
        return steps * sum(math.prod(weights[name]) for name in sources if len(weights[name]) > 1)
    weight = _weight_shape(node, kind, weights, sources)
    if short_name(node) == _EINSUM:
        return _einsum_macs(node)
    if "transpose" in short_name(node):
        return math.prod(_shape(node.all_input_nodes[0])) * math.prod(weight[1:])
    if kind in ("conv", "depthwise"):
        return math.prod(_shape(node)) * math.prod(weight[1:])
    return math.prod(_shape(node)) * _columns(node, weight)


def _columns(node: Node, weight: tuple[int, ...]) -> int:
    return weight[1] if short_name(node) == "linear" else weight[-2]


def _product_macs(node: Node, weights: Collection[str]) -> int:
    """Multiply-accumulates of products between two activations: matmul and attention."""
    name = short_name(node)
    if name == "scaled_dot_product_attention":
        query, key, value = (_shape(item) for item in node.all_input_nodes[:3])
        pairs = math.prod(query[:-1]) * key[-2]
        return pairs * query[-1] + pairs * value[-1]
    if name in _MATMUL:
        left, right = node.all_input_nodes[0], node.all_input_nodes[-1]
        if left.name not in weights and right.name not in weights:
            return math.prod(_shape(node)) * _shape(left)[-1]
    if name == _EINSUM and not any(item.name in weights for item in node.all_input_nodes):
        return _einsum_macs(node)
    return 0


def _einsum_macs(node: Node) -> int:
    """One multiply-accumulate for each place of all axes of a product that names them."""
    operands = str(node.args[0]).replace(" ", "").partition("->")[0].split(",")
    sizes: dict[str, int] = {}
    items: Any = node.args[1]
    for labels, item in zip(operands, items, strict=False):
        before, dots, after = labels.partition("...")
        shape = _shape(item)
        sizes |= zip(before, shape, strict=False)
        sizes |= zip(after, shape[len(shape) - len(after) :], strict=False)
        if dots:
            sizes[dots] = math.prod(shape[len(before) : len(shape) - len(after)])
    return math.prod(sizes.values())


def _shape(node: Node) -> tuple[int, ...]:
    value = node.meta.get("val")
    if isinstance(value, (tuple, list)):
        value = value[0]
    if not isinstance(value, torch.Tensor):
        return ()
    return tuple(_hint(size) for size in value.shape)


def _hint(size: int | torch.SymInt) -> int:
    if isinstance(size, int):
        return size
    hint: int = size.node.hint
    return hint


# What these give is the same memory seen otherwise, in torch and in the planners of the runtimes.
_VIEWS = ("view", "reshape", "flatten", "unsqueeze", "squeeze", "unflatten", "dropout", "getitem")


def _peak_activation_bytes(program: ExportedProgram) -> int:
    """The largest sum of live activations in the graph's order, counted as 32-bit floats."""
    kept = _weight_shapes(program)
    nodes = [node for node in program.graph.nodes if node.name not in kept]
    owners: dict[Node, Node] = {}
    last: dict[Node, int] = {}
    for i, node in enumerate(nodes):
        used = [owners[item] for item in node.all_input_nodes if item in owners]
        is_view = used and (short_name(node) in _VIEWS or node.target is operator.getitem)
        owners[node] = used[0] if is_view else node
        last.update(dict.fromkeys([*used, owners[node]], i))
    ended: dict[int, list[Node]] = {}
    for owner, end in last.items():
        ended.setdefault(end, []).append(owner)
    live = peak = 0
    for i, node in enumerate(nodes):
        if node.op == "output":
            continue
        live += _node_bytes(node) if owners[node] is node else 0
        peak = max(peak, live)
        live -= sum(_node_bytes(owner) for owner in ended.get(i, ()))
    return peak


def _node_bytes(node: Node) -> int:
    value = node.meta.get("val")
    found = value if isinstance(value, (tuple, list)) else (value,)
    return sum(
        math.prod(_hint(size) for size in item.shape) * FLOAT_BYTES
        for item in found
        if isinstance(item, torch.Tensor)
    )


def _family(calls: Iterable[Node], layers: tuple[LayerFact, ...], macs: int) -> ModelFamily:
    names = {short_name(node) for node in calls}
    kinds = {layer.kind for layer in layers}
    conv_macs = sum(layer.macs for layer in layers if layer.kind in ("conv", "depthwise"))
    has_attention = "scaled_dot_product_attention" in names or (
        "softmax" in names and bool(names & {*_MATMUL, _EINSUM})
    )
    if has_attention or {"embedding", "layer_norm"} <= names:
        return "convnet" if conv_macs > CONV_SHARE * macs else "transformer"
    if conv_macs:
        return "convnet"
    return "mlp" if kinds == {"linear"} else "other"
