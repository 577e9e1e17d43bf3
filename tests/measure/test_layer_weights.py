"""The error of stored weights against numpy."""

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from edgekit.graph import read_graph
from edgekit.measure.layer_links import Links
from edgekit.measure.layer_points import find_points
from edgekit.measure.layer_weights import WeightMeasurer
from tests.measure.quantized import net, quantized_bytes


def test_the_error_of_every_weight_is_what_numpy_finds():
    model = onnx.load_from_string(quantized_bytes())
    constants = {item.name: numpy_helper.to_array(item) for item in model.graph.initializer}
    floats = {item.name: numpy_helper.to_array(item) for item in net().graph.initializer}
    graphs = [read_graph(item.SerializeToString(), name="g") for item in (net(), model)]
    points = find_points(*graphs, is_named=True).found
    measurer = WeightMeasurer(*(Links(graph) for graph in graphs))
    found = [measurer.measure(item) for item in points if item.layers]
    names = ["first.weight", "right.weight", "left.weight", "head.weight"]
    for name, noise in zip(names, found, strict=True):
        scale = constants[f"{name}_scale"]
        axis = 1 if name == "head.weight" else 0
        shape = [-1 if place == axis else 1 for place in range(floats[name].ndim)]
        values = constants[f"{name}_quantized"].astype(np.float64) * scale.reshape(shape)
        expected = np.square(values - floats[name]).sum() / np.square(floats[name]).sum()
        assert noise.noise_ratio == pytest.approx(expected, rel=1e-4)
        assert noise.scales == scale.size


def test_uneven_channels_are_told_by_their_ranges():
    model = net()
    [tensor] = [item for item in model.graph.initializer if item.name == "left.weight"]
    values = numpy_helper.to_array(tensor).copy()
    values[3] *= 100
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    graph = read_graph(model.SerializeToString(), name="g")
    points = find_points(graph, graph, is_named=True).found
    measurer = WeightMeasurer(Links(graph), Links(graph))
    spreads = {
        measurer.original(item.float_tensor)[0].tensor.name: measurer.measure(item).spread
        for item in points
        if item.layers
    }
    ranges = np.abs(values).max(axis=(1, 2, 3))
    assert spreads["left.weight"] == pytest.approx(ranges.max() / np.median(ranges))
    assert spreads["right.weight"] < 3
