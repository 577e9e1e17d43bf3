"""Names for the tensors of a stripped artifact, from the same artifact before it was stripped."""

from dataclasses import replace

from edgekit.core.errors import InputError
from edgekit.graph.model import Graph, Operator, Subgraph


def with_names(shipped: Graph, named: Graph) -> Graph:
    """The graph that ships, with the names that its tensors had before stripping.

    Stripping keeps operators and their inputs in order, and only that is compared: data may differ.
    Raises: InputError where the two are not one graph.
    """
    if len(shipped.subgraphs) != len(named.subgraphs):
        raise InputError(_unlike(shipped, named, "another number of subgraphs"))
    pairs = zip(shipped.subgraphs, named.subgraphs, strict=True)
    subgraphs = tuple(_renamed(ours, theirs, shipped, named) for ours, theirs in pairs)
    return replace(shipped, subgraphs=subgraphs)


def _renamed(ours: Subgraph, theirs: Subgraph, shipped: Graph, named: Graph) -> Subgraph:
    if [_form(item) for item in ours.operators] != [_form(item) for item in theirs.operators]:
        raise InputError(_unlike(shipped, named, "other operators"))
    names: dict[int, str] = {}
    places = [(ours.inputs, theirs.inputs), (ours.outputs, theirs.outputs)]
    for left, right in zip(ours.operators, theirs.operators, strict=True):
        places += [(left.inputs, right.inputs), (left.outputs, right.outputs)]
    for mine, yours in places:
        for index, source in zip(mine, yours, strict=True):
            if index >= 0 and source >= 0:
                # Equal constants are stored once when names are gone: the first name stays.
                names.setdefault(index, theirs.tensors[source].name)
    tensors = (replace(item, name=names.get(item.index, item.name)) for item in ours.tensors)
    return replace(ours, tensors=tuple(tensors))


def _form(operator: Operator) -> tuple[str, int, int]:
    return operator.name, len(operator.inputs), len(operator.outputs)


def _unlike(shipped: Graph, named: Graph, what: str) -> str:
    return f"{shipped.name} and {named.name} are not the same graph: {what}"
