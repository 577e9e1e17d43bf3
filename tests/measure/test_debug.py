"""Layer by layer against numpy; a layer that was spoiled on purpose is the one that is named."""

import numpy as np
import onnx
import onnxruntime
import pytest

from edgekit.compile.strip import strip_bytes
from edgekit.core.artifact import Artifact, Binding
from edgekit.core.contract import Contract, InputContract, OutputContract, Tensor
from edgekit.graph import read_graph
from edgekit.measure.debug import Pair, Sample, Side, compare_layers, value_label
from edgekit.measure.layer_points import find_points
from edgekit.measure.mending import find_wrong
from tests.measure import artifacts, quantized
from tests.measure.quantized import images, net, quantized_bytes, spoil_scale, spoil_weights

CONTRACT = Contract(
    inputs=(
        InputContract(
            name="image",
            dtype="float32",
            shape=quantized.SHAPE,
            source=Tensor(shape=quantized.SHAPE[1:]),
        ),
    ),
    outputs=(OutputContract(name="scores", dtype="float32", shape=(1, 5)),),
)
ARTIFACT = Artifact(
    format="onnx",
    runtime="onnx",
    entry="model.onnx",
    precision="int8",
    inputs=(Binding(name="image", position=0),),
    outputs=(Binding(name="scores", position=0),),
    batch=1,
)
SETTINGS = {"precision": "int8", "activations": "static"}


def side(content):
    return Side(model=content, graph=read_graph(content, name="m"), artifact=ARTIFACT)


def compare(content, *, is_named=True, count=4):
    pair = Pair(original=side(net().SerializeToString()), artifact=side(content), tensor_map={})
    points = find_points(pair.original.graph, pair.artifact.graph, is_named=is_named)
    samples = [Sample(inputs={"image": image}) for image in images(count, seed=5)]
    return compare_layers(pair, points, CONTRACT, samples)


def first_wrong(comparison):
    finding = find_wrong(comparison, SETTINGS)
    if finding.first_wrong is None:
        return None, finding
    return comparison.layers[finding.first_wrong].error, finding


def watched(model, names):
    """Tensors of a model over the samples, by onnx and ONNX Runtime alone."""
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    rows = [session.run(names, {"image": image}) for image in images(4, seed=5)]
    return {
        name: np.stack([row[place] for row in rows]).astype(np.float64)
        for place, name in enumerate(names)
    }


def test_every_layer_is_as_numpy_finds_it():
    comparison = compare(quantized_bytes())
    floats = {"hidden": "first.weight", "left": "left.weight", "right": "right.weight"}
    wanted = watched(net(), list(floats))
    found = watched(
        onnx.load_from_string(quantized_bytes()),
        [f"{name}_DequantizeLinear_Output" for name in floats],
    )
    by_label = {item.error.layer: item.error for item in comparison.layers}
    for name, label in floats.items():
        one, two = wanted[name].ravel(), found[f"{name}_DequantizeLinear_Output"].ravel()
        error = by_label[label]
        expected = 20 * np.log10(np.linalg.norm(one) / np.linalg.norm(one - two))
        assert error.snr_db == pytest.approx(expected, abs=0.01)
        cosine = one @ two / np.linalg.norm(one) / np.linalg.norm(two)
        assert error.cosine == pytest.approx(cosine, abs=1e-6)
        assert (error.operator, error.weights) == ("Conv", "int8")


def test_a_healthy_model_has_no_wrong_layer():
    comparison = compare(quantized_bytes())
    assert first_wrong(comparison) == (None, find_wrong(comparison, SETTINGS))
    assert comparison.outputs[0].snr_db > 25
    assert [item.error.operator for item in comparison.layers] == [
        *("QuantizeLinear", "Conv", "Conv", "Conv", "Add", "GlobalAveragePool", "MatMul")
    ]


@pytest.mark.parametrize("is_named", [True, False])
def test_a_range_that_is_cut_to_a_tenth_is_named_with_a_calibration_that_mends_it(is_named):
    content = spoil_scale(quantized_bytes(), "left_scale", 0.1)
    content = content if is_named else strip_bytes(content, "onnx", name="m")
    wrong, finding = first_wrong(compare(content, is_named=is_named))
    assert wrong.layer == "left.weight"
    assert wrong.saturated_share > 0.3
    assert wrong.outside_share > 0.3
    assert wrong.weight_snr_db > 35
    assert "outside the range" in finding.mends[0].evidence
    assert "quantize.calibration.method=min_max" in finding.mends[0].remedy


def test_what_comes_in_is_not_blamed_on_who_passes_it_on():
    layers = compare(spoil_scale(quantized_bytes(), "hidden_scale", 0.1)).layers
    assert [item.error.layer for item in layers if item.error.goes_wrong] == ["first.weight"]
    assert all(item.error.snr_db < 10 for item in layers[1:4])
    first, second = layers[1].sums, layers[2].sums
    came_in, all_of_it = first.noise / first.signal, second.noise / second.signal
    error = layers[2].error
    assert error.input_snr_db == pytest.approx(-10 * np.log10(came_in))
    assert error.added_snr_db == pytest.approx(-10 * np.log10(max(all_of_it - came_in, 1e-15)))
    both = layers[4]
    noise, signal = (
        sum(getattr(layers[place].sums, name) for place in both.point.sources)
        for name in ("noise", "signal")
    )
    assert len(both.point.sources) == 2
    assert both.error.input_snr_db == pytest.approx(10 * np.log10(signal / noise))


@pytest.mark.parametrize("is_named", [True, False])
def test_weights_that_are_not_the_float_ones_are_named(is_named):
    content = spoil_weights(quantized_bytes(), "right.weight_quantized")
    content = content if is_named else strip_bytes(content, "onnx", name="m")
    wrong, finding = first_wrong(compare(content, is_named=is_named))
    assert wrong.layer == "right.weight"
    assert wrong.weight_snr_db < 3
    assert "no rounding explains that" in finding.mends[0].evidence


def test_a_range_that_is_far_too_wide_is_named_as_too_coarse():
    wrong, finding = first_wrong(compare(spoil_scale(quantized_bytes(), "both_scale", 60.0)))
    assert wrong.operator == "Add"
    assert wrong.outside_share == 0
    assert "makes steps of" in finding.mends[0].evidence
    assert "quantize.calibration.method=mse" in finding.mends[0].remedy


def test_a_tflite_with_integer_inputs_is_compared_with_numbers_by_hand(tmp_path):
    artifact = artifacts.write_int8_tflite(tmp_path)
    original = artifacts.write_onnx(tmp_path, batch=1)
    sides = [
        Side(model=content, graph=read_graph(content, name="m"), artifact=given)
        for given in (original, artifact)
        for content in [(tmp_path / given.entry).read_bytes()]
    ]
    points = find_points(sides[0].graph, sides[1].graph, is_named=False)
    rows = np.random.default_rng(3).uniform(-3, 3, (16, 1, 3)).astype(np.float32)
    comparison = compare_layers(
        Pair(original=sides[0], artifact=sides[1], tensor_map={"w": "dense"}),
        points,
        artifacts.contract(batch=1),
        [
            Sample(inputs={"x": row}, golden={"y": artifacts.expected(row) + np.float32(0.5)})
            for row in rows
        ],
    )
    given, layer = (item.error for item in comparison.layers)
    stored = np.rint(rows / np.float32(artifacts.INPUT_SCALE)) * artifacts.INPUT_SCALE
    power = np.square(rows).sum()
    expected = 10 * np.log10(power / np.square(rows - stored).sum())
    assert given.operator == "input"
    assert given.snr_db == pytest.approx(expected, abs=0.05)
    assert (layer.operator, layer.layer) == ("FULLY_CONNECTED", "dense")
    assert layer.snr_db > 30
    # Half a step of the output and what weights and inputs lose, beside the 0.5 put on.
    assert comparison.golden_difference["y"] == pytest.approx(0.5, abs=0.2)


def test_labels_of_litert_torch_are_module_paths():
    name = "net.Net/torch.nn.modules.container.Sequential_blocks/net.Block_0;11"
    assert value_label(name) == "blocks.0;11"
    assert value_label(f"other.Thing_x;{name}") == "blocks.0;11"
    assert value_label("net.Net;1") == "Net;1"
    assert value_label("relu_1_QuantizeLinear") == "relu_1_QuantizeLinear"
    assert value_label("some/user;name") == "some/user;name"
