"""Names come back to a stripped file from the file that it was stripped of."""

import pytest

from edgekit.compile.strip import strip_bytes
from edgekit.core.errors import InputError
from edgekit.graph import read_graph
from edgekit.measure.layer_names import with_names
from tests.measure.quantized import net, quantized_bytes, spoil_weights


def outputs_of(graph):
    subgraph = graph.subgraphs[0]
    return [subgraph.tensors[item.outputs[0]].name for item in subgraph.operators]


def test_names_come_back_from_the_file_before_it_was_stripped():
    named = read_graph(quantized_bytes(), name="named")
    bare = read_graph(strip_bytes(quantized_bytes(), "onnx", name="m"), name="bare")
    assert outputs_of(bare) != outputs_of(named)
    assert outputs_of(with_names(bare, named)) == outputs_of(named)


def test_other_values_are_no_other_graph():
    spoiled = read_graph(spoil_weights(quantized_bytes(), "left.weight_quantized"), name="spoiled")
    named = read_graph(quantized_bytes(), name="named")
    assert outputs_of(with_names(spoiled, named)) == outputs_of(named)


def test_another_graph_is_refused():
    named = read_graph(quantized_bytes(), name="named")
    with pytest.raises(InputError, match="named and other are not the same graph: other operators"):
        with_names(named, read_graph(net().SerializeToString(), name="other"))
