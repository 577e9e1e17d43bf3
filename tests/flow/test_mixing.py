"""Mixed precision in a build: one plan for both targets, within its budget, as the file has it."""

import json
from functools import cache

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

import edgekit
from edgekit.compress.quantization.layer_forms import four_bits
from edgekit.core.codec import to_plain
from edgekit.core.errors import BudgetError, StepError
from edgekit.core.strategy import Override
from edgekit.flow.mixed_results import STAGE
from tests.compress.benches import seeded
from tests.flow.test_compressing import profile

SHAPE = (3, 12, 12)
# The weights are 216, 72 (depthwise), 1,728, 1,152, 1,536 and 320: 5,024 bytes in INT8, and 2,548
# with all but the depthwise ones in INT4.
BUDGET = 4000


class Net(nn.Module):
    """Convolutions of several shapes, one of them depthwise, and two linear layers."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, stride=2)
        self.depth = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.wide = nn.Conv2d(8, 24, 3, padding=1)
        self.point = nn.Conv2d(24, 48, 1)
        self.hidden = nn.Linear(48, 32)
        self.scores = nn.Linear(32, 10)

    def forward(self, image):
        hidden = torch.relu(self.depth(torch.relu(self.stem(image))))
        hidden = torch.relu(self.point(torch.relu(self.wide(hidden)))).mean((2, 3))
        return self.scores(torch.relu(self.hidden(hidden)))


@cache
def net():
    """With weights so far apart in a channel of two layers that 4 bits harm these."""
    model = seeded(Net, 3)
    with torch.no_grad():
        for layer in (model.hidden, model.scores):
            layer.weight[:, 0] *= 12
    return model


def samples(count, seed):
    """Pictures, and what the network itself makes of them."""
    images = np.random.default_rng(seed).standard_normal((count, *SHAPE)).astype(np.float32)
    with torch.no_grad():
        labels = net()(torch.from_numpy(images)).argmax(1).tolist()
    return list(zip(images, labels, strict=True))


def workload(**changes):
    given = {
        "name": "net",
        "model": net(),
        "inputs": {"image": edgekit.Tensor(shape=SHAPE)},
        "outputs": {"scores": edgekit.Output()},
        "calibration": [image for image, _ in samples(64, 1)],
        "selection": samples(100, 3),
        "evaluation": samples(200, 2),
    }
    return edgekit.Workload(**{**given, **changes})


def build(builds, target, folder, mixed, *, steps=(), **options):
    device = profile(folder, *steps)
    # A phone's .onnx ships as .ort, which the package onnx does not read.
    (folder / "tested.toml").write_text(
        (folder / "tested.toml").read_text().replace('"phone"', '"edge-server"')
    )
    settings = {"precision": "mixed", "activations": "static", "mixed": mixed}
    options = {"allow": ("metric_drop", "latency_ratio"), **options}
    if "overrides" in options:
        settings["overrides"] = [to_plain(item) for item in options.pop("overrides")]
    given = workload()
    return builds.build(device, given, target=target, settings={"quantize": settings}, **options)


def precisions_of(result):
    """The plan, as the report has it."""
    return result.steps[-1].values["precisions"]


def overrides_of(result):
    step = next(step for step in result.manifest.strategy.steps if step.name == "quantize")
    return {item["pattern"]: item["precision"] for item in step.settings["overrides"]}


def model_file(result):
    (file,) = (path for path in (result.bundle / "model").iterdir() if path.is_file())
    return file


def stored_as(result):
    """The type of each layer's weight in an .onnx, found by its number of elements."""
    file = model_file(result)
    found = [
        (int(np.prod(item.dims)), onnx.TensorProto.DataType.Name(item.data_type).lower())
        for item in onnx.load(file).graph.initializer
        if len(item.dims) > 1
    ]
    sizes = {layer.weight.numel(): path for path, layer in layers_of(net()).items()}
    return {sizes[size]: name for size, name in found if size in sizes}


def layers_of(model):
    return {path: item for path, item in model.named_modules() if hasattr(item, "weight")}


@pytest.mark.slow
def test_both_targets_store_the_same_plan(builds, tmp_path):
    mixed = {"max_weight_bytes": BUDGET}
    results = {name: build(builds, name, tmp_path, mixed) for name in ("litert", "onnx")}
    plans = [precisions_of(result) for result in results.values()]
    assert plans[0] == plans[1]
    assert set(plans[0].values()) == {"int4", "int8"}
    assert plans[0]["depth"] == "int8"
    assert overrides_of(results["litert"]) == overrides_of(results["onnx"])
    elements = {path: layer.weight.numel() for path, layer in layers_of(net()).items()}
    taken = sum(size // (2 if plans[0][path] == "int4" else 1) for path, size in elements.items())
    assert taken <= BUDGET
    assert stored_as(results["onnx"]) == plans[0]
    narrow = {layer.layer for layer in results["litert"].largest_layers if layer.dtype == "int4"}
    assert narrow == {path for path, name in plans[0].items() if name == "int4"}
    figures = {item.name: item for step in results["onnx"].evidence.steps for item in step.figures}
    assert figures["mixed_weight_bytes"].value == taken
    assert figures["mixed_predicted_error"].provenance == "estimated"
    assert figures["mixed_output_error"].provenance == "measured"
    assert_holds_what_was_measured(results["onnx"], plans[0])


def assert_holds_what_was_measured(result, plan):
    """The 4-bit weights of the .onnx are those whose error was measured."""
    constants = {item.name: item for item in onnx.load(model_file(result)).graph.initializer}
    for path, layer in layers_of(net()).items():
        if plan[path] != "int4":
            continue
        wanted = four_bits(layer.weight, 0).detach().numpy()
        found = [
            numpy_helper.to_array(item).astype(np.int8)
            for item in constants.values()
            if item.data_type == onnx.TensorProto.INT4 and np.prod(item.dims) == wanted.size
        ]
        # The integers are the same, so the values are one step a channel apart.
        integers = (
            found[0].reshape(wanted.shape) if found[0].ndim == 4 else turned(found[0], wanted)
        )
        rows = np.abs(wanted.reshape(len(wanted), -1))
        reached = np.abs(integers.reshape(len(wanted), -1))
        steps = (rows.max(axis=1) / reached.max(axis=1)).reshape(-1, *[1] * (wanted.ndim - 1))
        assert np.allclose(integers * steps, wanted, rtol=1e-5, atol=1e-7)


def turned(integers, wanted):
    """A matrix that the file may hold with its outputs on the second axis."""
    return integers if integers.shape == wanted.shape else integers.T


@pytest.mark.slow
def test_the_file_keeps_its_budget_and_rounding_has_the_plan(builds, tmp_path):
    steps = [("round", "{ method = 'nearest' }")]
    mixed = {"max_bytes": 8_000, "max_latency_ratio": 50.0, "metric_layers": 1}
    result = build(builds, "onnx", tmp_path, mixed, steps=steps)
    assert model_file(result).stat().st_size <= 8_000
    plan, rounded = (
        precisions_of(result),
        next(item for item in result.steps if item.name == "round"),
    )
    bits = rounded.values["bits"]
    assert {path: f"int{count}" for path, count in bits.items()} == plan
    assert {"int4", "int8"} == set(plan.values())
    points = {point["name"]: point for point in result.steps[-1].points}
    assert [name for name, point in points.items() if point["is_kept"]] == ["solved"]
    saved = json.loads((result.report / "report.json").read_text())
    assert any(step["name"] == STAGE for step in saved["steps"])
    figures = {item.name: item for step in result.evidence.steps for item in step.figures}
    assert figures["mixed_latency_ratio"].provenance == "estimated"


def test_too_small_a_budget_is_refused_with_the_least(builds, tmp_path):
    by_hand = (Override(pattern="^wide$", precision="float"),)
    with pytest.raises(
        BudgetError, match=r"at most 100 bytes .* can take is 1,684 bytes"
    ) as refusal:
        build(builds, "onnx", tmp_path, {"max_weight_bytes": 100}, overrides=by_hand)
    assert refusal.value.exit_code == 3
    with pytest.raises(BudgetError, match=r"at most 2,000 bytes are asked .* fewest bits it takes"):
        build(builds, "onnx", tmp_path, {"max_bytes": 2_000})


def test_overrides_that_leave_nothing_to_plan_are_refused(builds, tmp_path):
    everything = (Override(pattern=".*", precision="int8"),)
    with pytest.raises(StepError, match="no layer is left to choose a precision for"):
        build(builds, "onnx", tmp_path, {"max_bytes": 9_000}, overrides=everything)
