"""A way to call the command line, and a small bundle with a real ONNX model in it."""

import io
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from edgekit.bundle.manifest import Component, Golden
from edgekit.bundle.seal import seal_bundle
from edgekit.cli.main import main
from edgekit.core.artifact import Artifact, Binding
from edgekit.core.contract import Contract, Image, InputContract, Output, OutputContract
from tests.bundle import samples

LABELS = ("dark", "bright", "mixed")
# Scores of a 2 x 2 picture with pixels in 0..1: dark falls with every pixel, bright rises with it.
WEIGHTS = np.array([[-1, 1, 0]] * 4, dtype=np.float32)
BIAS = np.array([2.0, -2.0, 0.1], dtype=np.float32)


@dataclass(frozen=True)
class Outcome:
    """What one command line left behind."""

    code: int
    out: str
    err: str


Command = Callable[..., Outcome]


@pytest.fixture
def command(capsys) -> Command:
    """Run a command line as the program does, less what only a process can do."""

    def call(*arguments: object) -> Outcome:
        capsys.readouterr()
        code = main([str(item) for item in arguments])
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return call


@pytest.fixture(autouse=True)
def _own_places(tmp_path, monkeypatch):
    """Nothing of a test reaches the user's own cache or depends on the user's terminal."""
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("EDGEKIT_TOOLCHAINS", str(tmp_path / "toolchains"))
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("EDGEKIT_PATH", raising=False)


def onnx_bytes(bias: np.ndarray = BIAS) -> bytes:
    """A linear layer over a 2 x 2 picture, made by onnx alone."""
    from onnx import TensorProto, checker, helper, numpy_helper

    nodes = [
        helper.make_node("Flatten", ["image"], ["flat"]),
        helper.make_node("Gemm", ["flat", "weights", "bias"], ["scores"]),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 1, 2, 2])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", 3])],
        [numpy_helper.from_array(WEIGHTS, "weights"), numpy_helper.from_array(bias, "bias")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    checker.check_model(model)
    return model.SerializeToString()


def npy(array: np.ndarray) -> bytes:
    """An array as .npy, written by numpy itself."""
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def picture_contract() -> Contract:
    """A 2 x 2 grey picture in, three labelled scores out."""
    image = Image(height=2, width=2, channels=1)
    scores = Output(labels=LABELS, activation="softmax")
    return Contract(
        inputs=(
            InputContract(name="image", dtype="float32", shape=("batch", 1, 2, 2), source=image),
        ),
        outputs=(
            OutputContract(name="scores", dtype="float32", shape=("batch", 3), meaning=scores),
        ),
    )


def seal_picture_bundle(out: Path, *, golden_bias: np.ndarray = BIAS) -> Path:
    """A whole bundle of the tiny model; golden outputs by numpy with ``golden_bias``."""
    inputs = np.linspace(0, 1, 8, dtype=np.float32).reshape(2, 1, 2, 2)
    outputs = inputs.reshape(2, 4) @ WEIGHTS + golden_bias
    artifact = Artifact(
        format="onnx",
        runtime="onnx",
        entry="model/model.onnx",
        precision="float32",
        inputs=(Binding(name="image", position=0),),
        outputs=(Binding(name="scores", position=0),),
        batch=0,
    )
    manifest = samples.manifest(
        name="brightness",
        target="onnx",
        components=(Component(name="main", artifact=artifact, contract=picture_contract()),),
        golden=Golden(
            samples=2,
            inputs={"image": "golden/inputs/image.npy"},
            outputs={"scores": "golden/outputs/scores.npy"},
            tolerance={"scores": 1e-4},
        ),
        minimum_runtime={"onnxruntime": "1.17.0"},
    )
    files = {
        "model/model.onnx": onnx_bytes(),
        "golden/inputs/image.npy": npy(inputs),
        "golden/outputs/scores.npy": npy(outputs),
    }
    evidence = samples.evidence(manifest, "")
    seal_bundle(out, manifest, files, lambda bundle_id: replace(evidence, bundle_id=bundle_id))
    return out


@pytest.fixture
def picture_bundle(tmp_path) -> Path:
    """A whole bundle that runs."""
    return seal_picture_bundle(tmp_path / "brightness.edgekit")
