"""The steps that profiles ship for transformers: what they buy, and where they buy nothing."""

from functools import cache
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn
from torch.nn import functional

import edgekit
from edgekit.core.errors import StepError
from tests.flow import tiny
from tests.flow.outlier_builds import WIDE, built, drop_of
from tests.flow.test_compressing import build, profile
from tests.flow.test_spread_channels import PostNorm
from tests.flow.test_spread_channels import model as outlying

TIMES = 200.0
SAMPLES = [x for x, _ in tiny.samples(200, 2)]


@cache
def uneven():
    """Norms that give one channel far larger than the others, to layers and to a sum."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = PostNorm().eval()
    with torch.no_grad():
        for layer in model.layers:
            layer.attention_norm.weight[5] *= TIMES
            layer.ffn_in.weight[:, 5] /= TIMES
    return model


class OwnLinear(nn.Module):
    """A layer that a model wrote itself, in whose place none that multiplies can be put."""

    def __init__(self, linear):
        super().__init__()
        self.weight, self.bias = linear.weight, linear.bias

    def forward(self, x):
        return functional.linear(x, self.weight, self.bias)


@cache
def opaque():
    """Norms lead into sums, and the layers behind them are of an own kind."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = PostNorm().eval()
    for path, item in list(model.named_modules()):
        if isinstance(item, nn.Linear):
            model.set_submodule(path, OwnLinear(item))
    return model


def shipped(builds, device, model, **options):
    """A build by a profile as it ships."""
    given = tiny.workload(
        name="shipped",
        model=model,
        outputs={"scores": edgekit.Output()},
        calibration=[x for x, _ in tiny.samples(128, 1)],
        evaluation=SAMPLES,
        metric="cosine",
    )
    return build(builds, device, given, **{"effort": "quick", "limits": WIDE, **options})


def quantized_alone(builds, folder, model):
    """The same for a laptop, with no other step."""
    path = Path(profile(folder))
    path.write_text(path.read_text().replace('extends = "phone"', 'extends = "laptop"'))
    return shipped(builds, str(path), model, target="onnx")


def run_by_onnx_runtime(file):
    """What an artifact gives for the evaluation data, without edgekit."""
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    (name,) = [item.name for item in session.get_inputs()]
    return np.concatenate([session.run(None, {name: x[None]})[0] for x in SAMPLES])


def lost(outputs, model):
    """Points of mean cosine to torch's own outputs."""
    with torch.no_grad():
        wanted = model(torch.from_numpy(np.stack(SAMPLES))).numpy()
    length = np.linalg.norm(wanted, axis=1) * np.linalg.norm(outputs, axis=1)
    return 100 * (1 - ((wanted * outputs).sum(1) / length).mean())


@pytest.mark.slow
def test_a_transformer_is_smoothed_by_the_plain_command(builds, tmp_path):
    model = uneven()
    result = shipped(builds, "laptop", model, target="onnx")
    steps = {step.name: step for step in result.manifest.strategy.steps}
    assert steps["smooth"].is_run
    assert not steps["spread"].is_needed
    file = result.bundle / "model" / "model.onnx"
    smoothed = lost(run_by_onnx_runtime(file), model)
    assert drop_of(result) == pytest.approx(smoothed, abs=0.01)
    plain = quantized_alone(builds, tmp_path, model)
    plain_lost = lost(run_by_onnx_runtime(plain.bundle / "model" / "model.onnx"), model)
    print("onnx", "dynamic", plain_lost, smoothed)
    assert smoothed < 0.5 * plain_lost
    # As many more multiplications as groups of layers that read one tensor each.
    groups = [
        item
        for step in result.steps
        if step.name == "smooth"
        for item in step.values["multiplied"].values()
        if item["strength"] is not None
    ]
    products = [
        sum(node.op_type == "Mul" for node in onnx.load(path).graph.node)
        for path in (file, plain.bundle / "model" / "model.onnx")
    ]
    assert groups
    assert products[0] >= products[1] + len(groups)


@pytest.mark.slow
def test_static_integers_of_litert_are_spread_by_the_plain_command(builds, tmp_path):
    static = {"quantize": {"activations": "static"}}
    result = shipped(builds, "phone", outlying(), settings=static)
    plain = built(builds, tmp_path / "plain", "litert", name="plain", model=outlying())
    steps = {step.name: step for step in result.manifest.strategy.steps}
    print("litert", "static", drop_of(plain), drop_of(result))
    assert (steps["smooth"].is_run, steps["spread"].is_run) == (False, True)
    assert drop_of(result) < 0.5 * drop_of(plain)


@pytest.mark.slow
def test_a_step_that_gains_nothing_is_told_and_the_file_is_that_without_it(builds, tmp_path):
    results = [shipped(builds, "laptop", opaque(), target="onnx") for _ in range(2)]
    plain = quantized_alone(builds, tmp_path, opaque())
    for result in results:
        (step,) = [item for item in result.manifest.strategy.steps if item.name == "smooth"]
        assert (step.is_run, step.is_needed) == (False, False)
        assert step.reason.startswith("smooth: no norm or layer gives its channels")
        assert step.reason.endswith("the model is bit for bit as it was")
        assert f"smooth: {step.reason}" in result.evidence.notes
        assert result.manifest.anti_patterns == ()
        assert [item.name for item in result.manifest.steps] == ["export", "quantize"]
        card = (result.bundle / "MODEL_CARD.md").read_text()
        assert "`smooth` had no need to run: smooth: no norm" in card
    assert [s.is_reused for s in results[1].stages if s.name == "smooth"] == [True]
    files = [item.bundle / "model" / "model.onnx" for item in (plain, *results)]
    assert len({file.read_bytes() for file in files}) == 1


@pytest.mark.slow
def test_who_asks_for_a_step_that_gains_nothing_is_refused(builds, tmp_path):
    asked = ("smooth", "{ has_multipliers = true }")
    with pytest.raises(StepError, match=r"smooth: no norm or layer .*; take it out"):
        built(builds, tmp_path / "asked", "onnx", asked, name="asked", model=opaque())


def test_a_conv_net_has_no_need_of_them():
    found = edgekit.plan(tiny.workload(), device="laptop")
    assert [step.name for step in found.strategy.unneeded] == ["smooth", "spread"]
    assert found.strategy.skipped == ()
    assert found.notes == ()
