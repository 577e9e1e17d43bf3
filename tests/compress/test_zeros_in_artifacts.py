"""Zeros of pruned models in the files that ship: counted in the raw bytes, place by place.

The models come with ``torch.nn.utils.prune`` masks; whole outputs and whole blocks are among them,
as aggressive pruning leaves them. Files are read with LiteRT's own interpreter and with ``onnx``.
"""

import itertools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from ai_edge_litert.interpreter import Interpreter
from onnx import numpy_helper
from torch import nn
from torch.nn import functional
from torch.nn.utils import prune

from edgekit.compile import litert
from edgekit.compile import onnx as onnx_stages
from edgekit.compile.capture import capture
from edgekit.compile.strip import strip_bytes
from edgekit.compress.masks import bake_masks
from edgekit.core.codec import to_plain
from edgekit.core.contract import Contract, Image, InputKind, Tensor
from edgekit.core.progress import Reporter
from edgekit.core.stage import StageRequest
from edgekit.core.strategy import Quantize
from edgekit.data.dataset import DatasetWriter
from edgekit.graph.grid import weight_grid
from edgekit.graph.reader import read_graph
from edgekit.graph.weights import weight_layers
from edgekit.measure.audit_values import scale_faults
from tests.compile.models import SmallCnn, SmallTransformer, trained_like, workload_of

SILENT = Reporter(stage="test")
STAGES = {"litert": litert, "onnx": onnx_stages}
FILES = {"litert": "model.tflite", "onnx": "model.onnx"}
MODES = {
    "int8": Quantize(precision="int8", activations="static"),
    "int8 unsigned activations": Quantize(
        precision="int8", activations="static", is_unsigned=True, is_range_reduced=True
    ),
    "int8 dynamic": Quantize(precision="int8", activations="dynamic"),
    "int8 weights": Quantize(precision="int8", activations="none"),
    "int4": Quantize(precision="int4", activations="static", keep_first_last_int8=False),
    "int4 dynamic": Quantize(precision="int4", activations="dynamic", keep_first_last_int8=False),
    "int4 blocks": Quantize(
        precision="int4", activations="dynamic", block_size=32, keep_first_last_int8=False
    ),
    "int4 weights": Quantize(precision="int4", activations="none", keep_first_last_int8=False),
    "fp16": Quantize(precision="fp16", activations="none"),
}


class GroupedCnn(SmallCnn):
    """With a grouped convolution beside the depthwise one."""

    def __init__(self) -> None:
        super().__init__()
        self.grouped = nn.Conv2d(32, 32, 3, padding=1, groups=4)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        stem = functional.relu(self.stem_norm(self.stem(image)))
        body = functional.relu(stem + self.body_norm(self.body(stem)))
        deep = functional.relu(self.depthwise_norm(self.depthwise(body)))
        deep = functional.relu(self.grouped(functional.relu(self.pointwise(deep))))
        return self.classifier(deep.mean((2, 3)))


@dataclass(frozen=True)
class Sparse:
    """A pruned model and its float exports. masks: of its weights, by module path."""

    model: nn.Module
    masks: Mapping[str, torch.Tensor]
    contract: Contract
    calibration: Path
    floats: Mapping[str, Path]
    artifacts: Mapping[str, Any]

    def quantize(self, target: str, settings: Quantize, out: Path) -> Path:
        """The quantize stage's folder."""
        request = StageRequest(
            name="quantize",
            handler=f"edgekit.compile.{target}:quantize",
            settings={
                "artifact": self.artifacts[target],
                "quantize": to_plain(settings),
                "contract": to_plain(self.contract),
            },
            inputs={"float": str(self.floats[target]), "calibration": str(self.calibration)},
        )
        STAGES[target].quantize(request, out, SILENT)
        return out


def pruned(model: nn.Module) -> dict[str, torch.Tensor]:
    """60% of every weight gone, one whole output among it, and a block of 32 where there is one."""
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear, nn.Embedding)):
            prune.l1_unstructured(module, "weight", amount=0.6)
            ones = torch.ones_like(module.weight)
            ones[1] = 0
            if ones.ndim == 2 and ones.shape[1] >= 64:
                ones[2, 32:64] = 0
            prune.custom_from_mask(module, "weight", ones)
    return {name.removesuffix(".weight"): mask for name, mask in bake_masks(model).items()}


def exported(
    model: nn.Module, kinds: dict[str, InputKind], root: Path, *, size: float = 1
) -> Sparse:
    masks = pruned(model)
    captured = root / "captured"
    captured.mkdir()
    contract = capture(workload_of(model, kinds, ["out"]), captured, SILENT).contract
    given = contract.inputs[0]
    draws = np.random.default_rng(0)
    with DatasetWriter(root / "calibration") as writer:
        for _ in range(32):
            writer.append({given.name: drawn(given, draws, size)})
    floats, artifacts = {}, {}
    for target, stages in STAGES.items():
        floats[target] = root / target
        floats[target].mkdir()
        request = StageRequest(
            name="export",
            handler=f"edgekit.compile.{target}:export",
            settings={"contract": to_plain(contract)},
            inputs={"model": str(captured)},
        )
        artifacts[target] = stages.export(request, floats[target], SILENT)["artifact"]
    return Sparse(model, masks, contract, root / "calibration", floats, artifacts)


def drawn(given: Any, draws: np.random.Generator, size: float) -> np.ndarray:
    shape = given.shape[1:]
    if given.dtype.startswith("float"):
        return (size * draws.standard_normal(shape)).astype(given.dtype)
    return draws.integers(0, 100, shape).astype(given.dtype)


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, Sparse]:
    """A CNN and a transformer."""
    made: dict[str, tuple[nn.Module, dict[str, InputKind]]] = {
        "cnn": (GroupedCnn(), {"image": Image(height=16, width=16)}),
        "transformer": (SmallTransformer(), {"ids": Tensor(shape=(16,), dtype="int64")}),
    }
    return {
        name: exported(trained_like(model), kinds, tmp_path_factory.mktemp(name))
        for name, (model, kinds) in made.items()
    }


def raw_weights(folder: Path, target: str) -> Iterator[tuple[str, np.ndarray]]:
    """Module path and stored numbers, less their zero point, of every mapped constant."""
    paths = json.loads((folder / "tensor_map.json").read_bytes())
    read = _tflite_constants if target == "litert" else _onnx_constants
    for name, values in read(folder / FILES[target]):
        if name in paths and values.ndim > 1:
            yield paths[name], values


def _tflite_constants(path: Path) -> Iterator[tuple[str, np.ndarray]]:
    interpreter = Interpreter(model_path=str(path), num_threads=1)
    for details in interpreter.get_tensor_details():
        try:
            values = interpreter.get_tensor(details["index"])
        except ValueError:  # not a constant
            continue
        scales = details["quantization_parameters"]
        points, axis = scales["zero_points"], scales["quantized_dimension"]
        if len(points) and values.ndim:
            along = np.arange(values.ndim) == axis
            values = values.astype(np.int64) - points.reshape(np.where(along, -1, 1))
        yield details["name"], values


def _onnx_constants(path: Path) -> Iterator[tuple[str, np.ndarray]]:
    model = onnx.load(path)
    constants = {item.name: numpy_helper.to_array(item) for item in model.graph.initializer}
    packed = {node.input[1] for node in model.graph.node if node.op_type == "MatMulNBits"}
    for name, values in constants.items():
        if name in packed:
            # Two unsigned numbers a byte, whose zero is 8 where no zero points are given.
            halves = np.stack([values & 0xF, values >> 4], axis=-1).astype(np.int16) - 8
            yield name, halves.reshape(len(values), -1)
        else:
            point = constants.get(name.removesuffix("_quantized") + "_zero_point", np.zeros(1))
            assert point.size == 1 or not point.any()
            yield name, values - point.reshape(-1)[0]


def is_zero_where_masked(values: np.ndarray, mask: np.ndarray) -> bool:
    """In one of the layouts in which a format may hold the weight."""
    layouts = (mask.transpose(order) for order in itertools.permutations(range(mask.ndim)))
    return any(not values[~item].any() for item in layouts if item.shape == values.shape)


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("target", list(STAGES))
@pytest.mark.parametrize("name", ["cnn", "transformer"])
def test_every_masked_weight_is_an_exact_zero_in_the_file(name, target, mode, models, tmp_path):
    model = models[name]
    folder = model.quantize(target, MODES[mode], tmp_path)
    seen = set()
    for path, values in raw_weights(folder, target):
        if path in model.masks and values.size == model.masks[path].numel():
            mask = model.masks[path].numpy()
            assert is_zero_where_masked(values, mask), path
            assert np.count_nonzero(values == 0) >= np.count_nonzero(~mask)
            seen.add(path)
    assert seen == set(model.masks)


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("target", list(STAGES))
@pytest.mark.parametrize("name", ["cnn", "transformer"])
def test_zeros_stay_zero_as_the_engine_reads_them_and_once_it_is_stripped(
    name, target, mode, models, tmp_path
):
    model = models[name]
    folder = model.quantize(target, MODES[mode], tmp_path)
    content = (folder / FILES[target]).read_bytes()
    wanted = sum(int((~mask).sum()) for mask in model.masks.values())
    model_format = {"litert": "tflite", "onnx": "onnx"}[target]
    for data in (content, strip_bytes(content, model_format, name=FILES[target])):
        graph = read_graph(data, name=FILES[target])
        grids = {layer.key: weight_grid(graph, layer) for layer in weight_layers(graph)}
        values = [grid.values for grid in grids.values() if grid is not None]
        assert sum(np.count_nonzero(item == 0) for item in values) >= wanted
        assert all(np.isfinite(item).all() for item in values)
        assert not list(scale_faults(graph))


class Deaf(nn.Module):
    """Each layer has an output without a weight, which is its bias whatever comes in."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 8, 3, padding=1)
        self.third, self.head = nn.Linear(8, 6), nn.Linear(6, 4)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        inner = functional.relu(self.second(functional.relu(self.first(image))))
        return self.head(functional.relu(self.third(inner.mean((2, 3)))))


# Deviation of the inputs; a bias is stored in steps that grow with them.
INPUT_SIZE = 200.0


@pytest.fixture(scope="module")
def deaf(tmp_path_factory) -> Sparse:
    """It and its exports, for inputs of some hundreds."""
    model = trained_like(Deaf())
    with torch.no_grad():
        for layer in (model.first, model.second, model.third, model.head):
            layer.bias[1] = 1.3
        model.first.weight /= INPUT_SIZE
    root = tmp_path_factory.mktemp("deaf")
    sparse = exported(model, {"image": Tensor(shape=(3, 8, 8))}, root, size=INPUT_SIZE)
    with torch.no_grad():
        assert (model.head.weight[1] == 0).all()
    return sparse


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("target", list(STAGES))
def test_an_output_without_a_weight_keeps_its_bias(target, mode, deaf, tmp_path):
    folder = deaf.quantize(target, MODES[mode], tmp_path)
    draws = np.random.default_rng(1)
    image = (INPUT_SIZE * draws.standard_normal((1, 3, 8, 8))).astype(np.float32)
    run = _run_litert if target == "litert" else _run_onnx
    found = run(folder / FILES[target], image)
    with torch.no_grad():
        wanted = deaf.model(torch.from_numpy(image)).numpy()
    assert wanted[0, 1] == pytest.approx(1.3)
    # One step of an 8-bit output; 4-bit weights before it cannot move an output without weights.
    assert found[0, 1] == pytest.approx(1.3, abs=float(wanted.max() - wanted.min()) / 100)
    if MODES[mode].precision != "int4":
        np.testing.assert_allclose(found, wanted, atol=float(np.abs(wanted).max()) / 100)


def _run_litert(path: Path, image: np.ndarray) -> np.ndarray:
    interpreter = Interpreter(model_path=str(path), num_threads=1)
    interpreter.allocate_tensors()
    (given,), (result,) = interpreter.get_input_details(), interpreter.get_output_details()
    scale, point = given["quantization"]
    if scale:
        image = np.clip(np.rint(image / scale) + point, -128, 127)
    interpreter.set_tensor(given["index"], image.astype(given["dtype"]))
    interpreter.invoke()
    found, (scale, point) = interpreter.get_tensor(result["index"]), result["quantization"]
    return (found.astype(np.float32) - point) * scale if scale else found


def _run_onnx(path: Path, image: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: image})[0]
