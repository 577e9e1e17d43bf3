"""What was trained rounded is what the artifacts hold: the same integers on both targets."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from edgekit.compress.bench import Bench
from edgekit.compress.quantization.round import round_weights
from edgekit.compress.training.rounding import make_rounder
from edgekit.core.contract import Contract, InputContract, OutputContract
from edgekit.core.progress import Reporter
from edgekit.core.steps import AdaRound, Round, Rounding
from edgekit.core.strategy import Quantize
from edgekit.data.dataset import open_dataset
from edgekit.evaluate.metrics import resolve_metric
from edgekit.graph.grid import weight_grid
from edgekit.graph.reader import read_graph
from edgekit.graph.weights import weight_layers
from tests.compile import models, onnx_tools
from tests.compile.conftest import export_workload, quantized_file

SETTINGS = Quantize(precision="int4", activations="static", is_unsigned=True)
INT4 = Rounding(precision="int4")
NORMS = {"stem": "stem_norm", "body": "body_norm", "depthwise": "depthwise_norm"}


def rounded_cnn(rounding=INT4):
    """A workload whose model is as training with rounding leaves it, and its weights' grids."""
    workload = models.cnn_workload()
    rounder = make_rounder(
        workload.model,
        rounding,
        lambda model, inputs: {"logits": model(inputs["image"])},
        {"image": torch.zeros(1, 3, 16, 16)},
    )
    rounder.round_()
    return workload, {layer.path: layer for layer in rounder.layers}


def folded(model, layer):
    """The weight with its norm's factor, by the norm's own formula."""
    weight = layer.weight.detach().numpy().astype(np.float64)
    if layer.path not in NORMS:
        return weight
    norm = model.get_submodule(NORMS[layer.path])
    factor = norm.weight / (norm.running_var + norm.eps).sqrt()
    return weight * factor.detach().numpy().reshape(-1, 1, 1, 1)


def assert_holds_what_was_trained(content, model, layers):
    graph = read_graph(content, name="model")
    stored = [(item.precision, weight_grid(graph, item).values) for item in weight_layers(graph)]
    for layer in layers.values():
        expected = np.sort(folded(model, layer).reshape(-1))
        alike = [
            (precision, values)
            for precision, values in stored
            if values.size == expected.size
            and np.allclose(np.sort(values.reshape(-1)), expected, atol=1e-5)
        ]
        assert alike, f"{layer.path} is not in the artifact as it was trained"
        assert alike[0][0] == f"int{layer.bits}", layer.path


def test_litert_holds_what_was_trained(tmp_path):
    workload, layers = rounded_cnn()
    content = quantized_file(export_workload(workload, tmp_path), SETTINGS, tmp_path).read_bytes()
    assert_holds_what_was_trained(content, workload.model, layers)


def step_rounded_cnn(method, root):
    """The same as the step "round" leaves it, biases corrected: the layer without a norm too."""
    workload = models.cnn_workload()
    drawn = np.random.default_rng(0).standard_normal((32, 3, 16, 16)).astype(np.float32)
    folder = onnx_tools.write_samples(root / "samples", [{"image": item} for item in drawn])
    image, logits = workload.inputs["image"], ("batch", 10)
    contract = Contract(
        inputs=(
            InputContract(name="image", dtype="float32", shape=("batch", 3, 16, 16), source=image),
        ),
        outputs=(OutputContract(name="logits", dtype="float32", shape=logits),),
    )
    bench = Bench(
        model=workload.model,
        teacher=copy.deepcopy(workload.model),
        contract=contract,
        call=lambda model, inputs: {"logits": model(inputs["image"])},
        training=None,
        calibration=open_dataset(folder),
        selection=open_dataset(folder),
        metric=resolve_metric("cosine"),
        checkpoints=root / "checkpoints",
    )
    learning = {"adaround": AdaRound(iterations=50)} if method == "adaround" else {}
    settings = Round(method=method, is_bias_corrected=True, rounding=INT4, **learning)
    result = round_weights(settings, bench, Reporter(stage="test"))
    rounder = make_rounder(result.model, INT4, bench.call, bench.example())
    return replace(workload, model=result.model), {item.path: item for item in rounder.layers}


@pytest.mark.parametrize("method", ["gptq", "adaround", "nearest"])
def test_both_targets_hold_what_the_step_left(method, tmp_path):
    workload, layers = step_rounded_cnn(method, tmp_path)
    (tmp_path / "litert").mkdir()
    content = quantized_file(export_workload(workload, tmp_path / "litert"), SETTINGS, tmp_path)
    assert_holds_what_was_trained(content.read_bytes(), workload.model, layers)
    exported = onnx_tools.export_model(workload, tmp_path / "onnx")
    answer, _ = exported.quantize(tmp_path / "int4", SETTINGS, tmp_path / "samples")
    content = tmp_path / "int4" / answer["artifact"]["entry"]
    assert_holds_what_was_trained(content.read_bytes(), workload.model, layers)


SEVEN_BITS = Quantize(
    precision="int8", activations="static", is_unsigned=True, is_range_reduced=True
)


@pytest.mark.parametrize(
    ("rounding", "settings"),
    [
        (INT4, SETTINGS),
        (Rounding(precision="int8", is_range_reduced=True), SEVEN_BITS),
    ],
)
def test_onnx_holds_what_was_trained(rounding, settings, tmp_path):
    workload, layers = rounded_cnn(rounding)
    exported = onnx_tools.export_model(workload, tmp_path)
    rng = np.random.default_rng(0)
    samples = [{"image": rng.standard_normal((3, 16, 16)).astype(np.float32)} for _ in range(16)]
    calibration = onnx_tools.write_samples(tmp_path / "calibration", samples)
    answer, _ = exported.quantize(tmp_path / "int4", settings, calibration)
    content = (tmp_path / "int4" / answer["artifact"]["entry"]).read_bytes()
    assert_holds_what_was_trained(content, workload.model, layers)


BLOCKS = Quantize(
    precision="int4", activations="dynamic", block_size=32, keep_first_last_int8=False
)


def block_rounded_mlp():
    """An MLP whose matrices are rounded in blocks of 32, and their values, sorted."""
    workload = models.mlp_workload()
    rounder = make_rounder(
        workload.model,
        Rounding(precision="int4", block_size=32, keep_first_last_int8=False),
        lambda model, inputs: {"logits": model(inputs["x"])},
        {"x": torch.zeros(1, 64)},
    )
    rounder.round_()
    return workload, [np.sort(item.weight.detach().numpy().ravel()) for item in rounder.layers]


def assert_holds_blocks(content, weights):
    graph = read_graph(content, name="model")
    stored = [
        np.sort(weight_grid(graph, item).values.ravel())
        for item in weight_layers(graph)
        if item.precision in ("int4", "uint4")
    ]
    assert len(stored) == len(weights)
    for found, expected in zip(sorted(stored, key=len), sorted(weights, key=len), strict=True):
        assert np.allclose(found, expected, atol=1e-5)


def test_litert_holds_blocks_as_they_were_rounded(tmp_path):
    workload, weights = block_rounded_mlp()
    content = quantized_file(export_workload(workload, tmp_path), BLOCKS, tmp_path).read_bytes()
    assert_holds_blocks(content, weights)


def test_onnx_holds_blocks_as_they_were_rounded(tmp_path):
    workload, weights = block_rounded_mlp()
    exported = onnx_tools.export_model(workload, tmp_path)
    answer, _ = exported.quantize(tmp_path / "int4", BLOCKS, None)
    assert_holds_blocks((tmp_path / "int4" / answer["artifact"]["entry"]).read_bytes(), weights)
