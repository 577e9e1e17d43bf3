"""One scale for a whole layer, and channels evened out so that it fits, on both targets."""

from pathlib import Path

import onnx
import pytest
import torch
from ai_edge_litert.interpreter import Interpreter
from onnx import numpy_helper
from torch import nn

import edgekit
from edgekit.core.errors import StepError
from tests.flow import tiny
from tests.flow.test_compressing import build, profile

QUANTIZE = """
[[strategy.step]]
name = "quantize"
required = true
reason = "small"
settings = {{ precision = "int8", activations = "static", {more} }}
"""


def device(folder, *steps, more="is_per_tensor = true"):
    path = Path(profile(folder, *steps))
    text = path.read_text()
    # A phone's .onnx ships as .ort, which the package onnx does not read.
    head = text[: text.rindex("[[strategy.step]]")].replace('"phone"', '"edge-server"')
    path.write_text(head + QUANTIZE.format(more=more))
    return str(path)


@torch.no_grad()
def badly_scaled():
    """The trained network with channels ten thousand times apart, and the same outputs."""
    network = tiny.Network()
    network.load_state_dict(tiny.network().state_dict())
    scales = 10.0 ** torch.linspace(-2, 2, 16)
    for first, second in ((network.first, network.second), (network.second, network.third)):
        first.weight.mul_(scales.reshape(-1, 1, 1, 1))
        first.bias.mul_(scales)
        second.weight.div_(scales.reshape(1, -1, 1, 1))
    return tiny.OnlyScores(network).eval()


def drop_of(result):
    return {item.name: item for item in result.evidence.figures}["metric_drop"].value


def weight_scales(result):
    """How many scales each 8-bit weight has, by the runtimes' own readers."""
    (file,) = (path for path in (result.bundle / "model").iterdir() if path.is_file())
    if file.suffix == ".tflite":
        details = Interpreter(str(file)).get_tensor_details()
        return {
            tuple(item["shape"]): len(item["quantization_parameters"]["scales"])
            for item in details
            if item["dtype"].__name__ == "int8" and tuple(item["shape"]) in SHAPES
        }
    model = onnx.load(file)
    constants = {item.name: numpy_helper.to_array(item) for item in model.graph.initializer}
    return {
        constants[node.input[0]].shape: constants[node.input[1]].size
        for node in model.graph.node
        if node.op_type == "DequantizeLinear"
        and node.input[0] in constants
        and constants[node.input[0]].ndim > 1
    }


# Of the second and the third convolution, as each format lays weights out.
SHAPES = {(16, 3, 3, 16)}


@pytest.mark.slow
@pytest.mark.parametrize("target", ["litert", "onnx"])
def test_equalized_channels_fit_one_scale_for_a_layer(builds, tmp_path, target):
    given = tiny.workload(model=badly_scaled(), calibration=[x for x, _ in tiny.samples(128, 1)])
    wide = {"metric_drop": 100.0, "latency_ratio": 1000.0}
    options = {"target": target, "effort": "quick", "limits": wide}
    alone = build(builds, device(tmp_path), given, **options)
    evened = build(builds, device(tmp_path, ("equalize", "{}")), given, **options)
    assert set(weight_scales(alone).values()) == set(weight_scales(evened).values()) == {1}
    assert drop_of(alone) > 10
    assert drop_of(evened) <= 0.5
    by_channel = build(builds, device(tmp_path, more="is_per_tensor = false"), given, **options)
    assert 16 in weight_scales(by_channel).values()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ('precision = "int4", activations = "static", is_per_tensor = true', "this is int4"),
        ('precision = "int8", activations = "none", is_per_tensor = true', "activations none"),
    ],
)
def test_what_has_no_single_scale_is_refused_by_the_plan(tmp_path, settings, said):
    path = Path(profile(tmp_path))
    text = path.read_text().replace('precision = "int8"', settings)
    path.write_text(text)
    with pytest.raises(StepError, match=f"is_per_tensor goes with int8.*{said}"):
        edgekit.plan(tiny.workload(), device=str(path))


def test_training_with_rounded_weights_needs_a_scale_for_each_channel(tmp_path):
    given = tiny.workload(training=tiny.samples(300, 7))
    steps = ("train", '{ epochs = 1, rounding = { precision = "auto" } }')
    with pytest.raises(StepError, match="one scale for a layer"):
        edgekit.plan(given, device=device(tmp_path, steps), effort="standard")


class Patches(nn.Module):
    """A convolution that cuts patches, and linear layers on them, as a vision transformer has."""

    def __init__(self):
        super().__init__()
        self.patch = nn.Conv2d(1, 64, 4, stride=4)
        self.norm, self.wide = nn.LayerNorm(64), nn.Linear(64, 128)
        self.narrow, self.scores = nn.Linear(128, 64), nn.Linear(64, 4)

    def forward(self, image):
        tokens = self.patch(image).flatten(2).transpose(1, 2)
        tokens = tokens + self.narrow(nn.functional.gelu(self.wide(self.norm(tokens))))
        return self.scores(tokens.mean(1))


@pytest.mark.slow
def test_a_convolution_before_int4_matrices_is_stored_in_8_bits_and_said_so(builds, tmp_path):
    torch.manual_seed(0)
    given = tiny.workload(model=Patches().eval())
    path = device(tmp_path, more="is_unsigned = false")
    text = Path(path).read_text().replace('"int8"', '"int4"').replace('"static"', '"dynamic"')
    Path(path).write_text(text)
    wide = {"metric_drop": 100.0, "latency_ratio": 1000.0}
    result = build(builds, path, given, target="onnx", effort="quick", limits=wide)
    (line,) = (item for item in result.evidence.audit if "patch" in item and "float" in item)
    assert "nor a fast one for convolutions with activations scaled at run time" in line
