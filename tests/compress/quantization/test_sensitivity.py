"""What a layer costs at fewer bits, against weights rounded by hand and the model run by hand."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from edgekit.compress.quantization import sensitivity
from edgekit.compress.quantization.layer_forms import Form
from edgekit.compress.quantization.sensitivity import Probe, measure_sensitivity, plan_error
from edgekit.core.errors import StepError
from tests.compress import benches

FORMS = (Form(precision="int8"), Form(precision="int4"), Form(precision="fp16"))
PROBE = Probe(forms=FORMS, samples=48, metric_layers=0)


def rounded_by_hand(weight, top):
    """Numpy's own: whole steps of a scale that just holds each row's largest weight."""
    rows = weight.detach().numpy().reshape(len(weight), -1).astype(np.float64)
    steps = np.abs(rows).max(axis=1, keepdims=True) / top
    return torch.from_numpy(np.round(rows / steps) * steps).float().reshape(weight.shape)


def inputs_of(data, count):
    return torch.from_numpy(next(iter(data.calibration.batches(count)))["image"])


@torch.no_grad()
def errors_by_hand(model, changed, inputs):
    wanted, found = model(inputs).double(), changed(inputs).double()
    error = float(((found - wanted) ** 2).sum() / (wanted**2).sum())
    cosines = nn.functional.cosine_similarity(found, wanted, dim=1)
    return error, float((1 - cosines).mean())


def test_an_int8_layer_costs_what_it_costs_by_hand(digits, tmp_path):
    bench = benches.cnn_bench(digits, tmp_path)
    found = measure_sensitivity(PROBE, bench, benches.SILENT)
    changed = copy.deepcopy(bench.model)
    changed.first.weight.data = rounded_by_hand(changed.first.weight, 127)
    error, turned = errors_by_hand(bench.model, changed, inputs_of(digits, 48))
    cost = next(item for item in found.layers if item.path == "first").costs["int8"]
    # Batches of another size sum in another order: float32's last digits.
    assert cost.error == pytest.approx(error, rel=1e-3)
    assert cost.cosine_loss == pytest.approx(turned, rel=1e-2, abs=1e-7)
    assert cost.bytes == 16 * 16 * 9
    assert found.samples == 48


def test_half_precision_costs_what_torch_s_own_half_does(digits, tmp_path):
    bench = benches.mlp_bench(digits, tmp_path)
    found = measure_sensitivity(PROBE, bench, benches.SILENT)
    changed = copy.deepcopy(bench.model)
    changed.layers[3].weight.data = changed.layers[3].weight.data.half().float()
    error, _ = errors_by_hand(bench.model, changed, inputs_of(digits, 48))
    cost = next(item for item in found.layers if item.path == "layers.3").costs["fp16"]
    # Of an error of about 1e-8, float32 sums leave two digits.
    assert cost.error == pytest.approx(error, rel=0.05)


def test_fewer_bits_cost_more_and_the_model_stays_as_it_was(digits, tmp_path):
    bench = benches.cnn_bench(digits, tmp_path)
    before = benches.state_of(bench.model)
    found = measure_sensitivity(PROBE, bench, benches.SILENT)
    benches.assert_same_state(benches.state_of(bench.model), before)
    for layer in found.layers:
        errors = [
            layer.costs[name].error for name in ("fp16", "int8", "int4") if name in layer.costs
        ]
        assert errors == sorted(errors)
    assert [layer.path for layer in found.layers][:2] == ["stem", "first"]


def test_the_metric_judges_the_layers_that_cost_most(digits, tmp_path):
    model = benches.fit(benches.seeded(benches.TinyMlp), digits, epochs=2)
    bench = benches.bench_of(model, digits, tmp_path)
    found = measure_sensitivity(replace(PROBE, metric_layers=1), bench, benches.SILENT)
    worst, *others = found.by_cost()
    assert all(cost.metric_drop is None for layer in others for cost in layer.costs.values())
    changed = copy.deepcopy(model)
    layer = changed.get_submodule(worst.path)
    rows = next(iter(digits.selection.batches(digits.selection.count)))
    inputs, labels = torch.from_numpy(rows["image"]), torch.from_numpy(rows["target"])
    layer.weight.data = rounded_by_hand(layer.weight, 127)
    with torch.no_grad():
        right = [(item(inputs).argmax(1) == labels).double().mean() for item in (model, changed)]
    assert worst.costs["int8"].metric_drop == pytest.approx(100 * float(right[0] - right[1]))
    assert found.unit == "points"


def test_a_whole_plan_is_measured_with_all_its_layers_at_once(digits, tmp_path):
    bench = benches.mlp_bench(digits, tmp_path)
    chosen = {"layers.1": "int8", "layers.3": "int8", "layers.5": "float"}
    found = plan_error(chosen, PROBE, bench, benches.SILENT)
    changed = copy.deepcopy(bench.model)
    for number in (1, 3):
        changed.layers[number].weight.data = rounded_by_hand(changed.layers[number].weight, 127)
    error, _ = errors_by_hand(bench.model, changed, inputs_of(digits, 48))
    assert found.error == pytest.approx(error, rel=1e-3)
    assert found.metric_drop is None


def test_errors_of_single_layers_add_up_nearly(digits, tmp_path):
    model = benches.fit(benches.seeded(benches.TinyCnn), digits, epochs=2)
    bench = benches.bench_of(model, digits, tmp_path)
    layers = measure_sensitivity(PROBE, bench, benches.SILENT).layers
    alone = sum(layer.costs["int8"].error for layer in layers)
    whole = plan_error({layer.path: "int8" for layer in layers}, PROBE, bench, benches.SILENT)
    # The assumption that plans rest on; correlated errors make it a factor, not a digit.
    assert alone / 3 < whole.error < 3 * alone


def test_large_outputs_are_measured_on_fewer_samples(digits, tmp_path, monkeypatch):
    monkeypatch.setattr(sensitivity, "_OUTPUT_BYTES", 32 * benches.CLASSES * 4 - 1)
    bench = benches.mlp_bench(digits, tmp_path)
    assert measure_sensitivity(PROBE, bench, benches.SILENT).samples == 32


class Broken(nn.Module):
    """A linear layer whose outputs are what a function makes of them."""

    def __init__(self, make):
        super().__init__()
        self.linear, self.make = nn.Linear(64, 10), make

    def forward(self, image):
        return self.make(self.linear(image.flatten(1)))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda scores: scores / 0, "output 'scores' is NaN or infinite"),
        (lambda scores: scores.argmax(1), r"no output of the model is a float \(scores\)"),
    ],
)
def test_outputs_that_cannot_be_compared_are_refused(digits, tmp_path, make, said):
    bench = benches.bench_of(Broken(make).eval(), digits, tmp_path)
    with pytest.raises(StepError, match=said):
        measure_sensitivity(PROBE, bench, benches.SILENT)


def test_a_model_without_layers_is_refused(digits, tmp_path):
    bench = benches.bench_of(nn.Flatten().eval(), digits, tmp_path)
    with pytest.raises(StepError, match="has no convolution, linear layer or embedding"):
        measure_sensitivity(PROBE, bench, benches.SILENT)
