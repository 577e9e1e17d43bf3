"""One small trained-like network as real artifacts of both runtimes, and bundles of them."""

import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from edgekit.bundle.manifest import Component, Golden, Manifest
from edgekit.bundle.seal import seal_bundle
from edgekit.core.artifact import Artifact, Binding
from edgekit.core.contract import Contract, InputContract, Output, OutputContract, Tensor
from tests.bundle import samples

SHAPE = (3, 8, 8)
LABELS = ("ant", "bee", "cat", "dog", "elk")


@dataclass(frozen=True)
class Model:
    """An artifact's bytes and what it is."""

    content: bytes
    format: str
    runtime: str
    batch: int


@dataclass(frozen=True)
class Models:
    """The same network in torch and as artifacts, with the inputs that the tests share."""

    module: object
    inputs: np.ndarray
    float_litert: Model
    int8_litert: Model
    dynamic_litert: Model
    dynamic_onnx: Model

    def torch_outputs(self, inputs: np.ndarray) -> np.ndarray:
        """What torch says."""
        import torch

        with torch.no_grad():
            return self.module(torch.from_numpy(inputs)).numpy()


def _network():
    import torch
    from torch import nn

    torch.manual_seed(0)

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Conv2d(3, 8, 3, padding=1)
            self.second = nn.Conv2d(8, 8, 3, padding=1)
            self.last = nn.Linear(8, 5)

        def forward(self, image):
            hidden = torch.relu(self.second(torch.relu(self.first(image))))
            return self.last(hidden.mean((2, 3)))

    return Network().eval()


def _to_int8(path: Path, inputs: np.ndarray) -> bytes:
    from ai_edge_litert.interpreter import Interpreter
    from ai_edge_quantizer import quantizer, recipe

    (key, names), *_ = Interpreter(str(path)).get_signature_list().items()
    work = quantizer.Quantizer(str(path))
    work.load_quantization_recipe(recipe.static_wi8_ai8())
    feed = {key: [{names["inputs"][0]: row[None]} for row in inputs]}
    out = path.with_name("int8.tflite")
    work.quantize(work.calibrate(feed)).export_model(str(out))
    return out.read_bytes()


def _to_onnx(module, folder: Path) -> bytes:
    import torch

    program = torch.onnx.export(
        module,
        (torch.zeros(2, *SHAPE),),
        dynamo=True,
        dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=64)},),
        verbose=False,
    )
    program.save(str(folder / "model.onnx"))
    return (folder / "model.onnx").read_bytes()


@pytest.fixture(scope="session")
def models(tmp_path_factory) -> Models:
    """The artifacts; converting takes some seconds, once a session."""
    import litert_torch
    import torch

    folder = tmp_path_factory.mktemp("models")
    module = _network()
    inputs = np.random.default_rng(0).standard_normal((16, *SHAPE)).astype(np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        litert_torch.convert(module, (torch.zeros(1, *SHAPE),)).export(str(folder / "f.tflite"))
        batch = torch.export.Dim("batch", min=1, max=64)
        litert_torch.convert(
            module, (torch.zeros(2, *SHAPE),), dynamic_shapes=({0: batch},)
        ).export(str(folder / "d.tflite"))
        int8 = _to_int8(folder / "f.tflite", inputs)
        onnx = _to_onnx(module, folder)
    return Models(
        module=module,
        inputs=inputs,
        float_litert=Model((folder / "f.tflite").read_bytes(), "tflite", "litert", 1),
        int8_litert=Model(int8, "tflite", "litert", 1),
        dynamic_litert=Model((folder / "d.tflite").read_bytes(), "tflite", "litert", 0),
        dynamic_onnx=Model(onnx, "onnx", "onnx", 0),
    )


def npy(array: np.ndarray) -> bytes:
    """An array as .npy, written by numpy itself."""
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def contract_for(batch: int, **meaning: object) -> Contract:
    """One image-like tensor in, five scores out."""
    first = "batch" if batch == 0 else batch
    return Contract(
        inputs=(
            InputContract(
                name="image", dtype="float32", shape=(first, *SHAPE), source=Tensor(shape=SHAPE)
            ),
        ),
        outputs=(
            OutputContract(
                name="scores",
                dtype="float32",
                shape=(first, 5),
                meaning=Output(labels=LABELS, **meaning),
            ),
        ),
    )


def artifact_for(model: Model) -> Artifact:
    """The artifact entry of a one-in, one-out model."""
    return Artifact(
        format=model.format,
        runtime=model.runtime,
        entry=f"model/model.{model.format}",
        precision="float32",
        inputs=(Binding(name="image", position=0),),
        outputs=(Binding(name="scores", position=0),),
        batch=model.batch,
    )


def seal(
    out: Path,
    model: Model,
    golden_inputs: dict[str, np.ndarray],
    golden_outputs: dict[str, np.ndarray],
    *,
    artifact: Artifact | None = None,
    contract: Contract | None = None,
    extra: dict[str, bytes] | None = None,
    change: Callable[[Manifest], Manifest] = lambda made: made,
) -> Path:
    """A sealed bundle of one model."""
    artifact = artifact or artifact_for(model)
    inputs = {name: f"golden/inputs/{name}.npy" for name in golden_inputs}
    outputs = {name: f"golden/outputs/{name}.npy" for name in golden_outputs}
    files = {
        artifact.entry: model.content,
        **{path: npy(golden_inputs[name]) for name, path in inputs.items()},
        **{path: npy(golden_outputs[name]) for name, path in outputs.items()},
        **(extra or {}),
    }
    golden = Golden(
        samples=len(next(iter(golden_inputs.values()))),
        inputs=inputs,
        outputs=outputs,
        tolerance=dict.fromkeys(outputs, 0.05),
    )
    made = samples.manifest(
        components=(
            Component(
                name="main", artifact=artifact, contract=contract or contract_for(model.batch)
            ),
        ),
        golden=golden,
        minimum_runtime={},
    )
    made = change(made)
    seal_bundle(out, made, files, lambda bundle_id: samples.evidence(made, bundle_id))
    return out


@pytest.fixture(scope="session")
def bundle_of(models, tmp_path_factory):
    """A function: the name of a model (and changes) to a sealed bundle of it."""

    def make(name: str, **changes) -> Path:
        inputs = models.inputs[:4]
        golden = {"image": inputs}, {"scores": models.torch_outputs(inputs)}
        return seal(
            tmp_path_factory.mktemp("bundles") / name, getattr(models, name), *golden, **changes
        )

    return make


@pytest.fixture(scope="session")
def bundles(bundle_of) -> dict[str, Path]:
    """One plain bundle of each model."""
    names = ("float_litert", "int8_litert", "dynamic_litert", "dynamic_onnx")
    return {name: bundle_of(name) for name in names}


def with_golden(made: Manifest, **changes: object) -> Manifest:
    """A manifest with another golden table."""
    return replace(made, golden=replace(made.golden, **changes))
