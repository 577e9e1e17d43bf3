"""Small edits of a captured graph: read and add constants, add calls, replace nodes."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.fx import GraphModule, Node


def numbers(node: Node, place: int, rank: int, default: int) -> list[int]:
    """An argument with a number for each axis, or one for all; the default where it is left out."""
    found: Any = node.args[place] if len(node.args) > place else default
    each = list(found) if isinstance(found, Sequence) else [found]
    return each * rank if len(each) == 1 else each


def first(node: Node, count: int) -> tuple[Any, ...]:
    """So many arguments; None for those that were left out."""
    return (*node.args[:count], *(None,) * (count - len(node.args)))


def constant(module: GraphModule, node: Any) -> Tensor | None:
    """The value behind a node that reads a parameter or a buffer."""
    if not isinstance(node, Node) or node.op != "get_attr":
        return None
    owner: Any = module
    for name in str(node.target).split("."):
        owner = getattr(owner, name)
    return owner.detach() if isinstance(owner, Tensor) else None


def uses(module: GraphModule, weight: Any) -> int:
    """How many calls read what a node reads, through any node."""
    return sum(
        len(node.users)
        for node in module.graph.nodes
        if node.op == "get_attr" and node.target == weight.target
    )


def attribute(module: GraphModule, name: str, value: Tensor) -> Node:
    """A node that reads a new constant, under a name that is free."""
    while hasattr(module, name):
        name = f"{name}_"
    module.register_parameter(name, nn.Parameter(value.contiguous(), requires_grad=False))
    return module.graph.get_attr(name)


def call(module: GraphModule, like: Node, target: Any, *args: Any) -> Node:
    """A call that belongs to the same module as the node that it stands for."""
    node = module.graph.call_function(target, args)
    node.meta = {key: value for key, value in like.meta.items() if key != "val"}
    return node


def replace_(module: GraphModule, node: Node, by: Node) -> None:
    """Put one node in the place of another, which leaves the graph."""
    if "val" in node.meta:
        by.meta["val"] = node.meta["val"]
    node.replace_all_uses_with(by)
    module.graph.erase_node(node)
