"""A convolution network that takes about a millisecond, float, INT8 and ONNX, as sealed bundles."""

# ruff: noqa: PLC0415 -- the measured process imports what it measures, when it does
import io
from itertools import pairwise
from pathlib import Path

import numpy as np

from edgekit.bundle.manifest import (
    SCHEMA,
    Component,
    Evidence,
    Golden,
    Host,
    Lineage,
    Manifest,
)
from edgekit.bundle.seal import seal_bundle
from edgekit.core.artifact import Artifact, Binding
from edgekit.core.contract import Contract, InputContract, OutputContract, Tensor
from edgekit.core.figure import exact
from edgekit.core.strategy import Strategy
from edgekit.core.verdict import EvidenceKind, Limit, Sense, deliver_verdict

# Sides of the picture at which the network takes about a millisecond on one x86 core of 2024.
SIZES = {"float": 72, "int8": 128, "onnx": 72}
# Format, engine and package.
RUNTIMES = {
    "litert": ("tflite", "litert", "ai-edge-litert"),
    "onnx": ("onnx", "onnx", "onnxruntime"),
}
CLASSES = 10
WIDTHS = (3, 24, 48, 48)


def make_model(folder: Path, precision: str) -> bytes:
    """The network as a float .tflite, a static INT8 one, or a float .onnx."""
    import litert_torch
    import torch
    from torch import nn

    torch.manual_seed(0)
    layers = [
        layer
        for first, second in pairwise(WIDTHS)
        for layer in (nn.Conv2d(first, second, 3, padding=1), nn.ReLU())
    ]
    layers.insert(4, nn.MaxPool2d(2))
    network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(48, CLASSES))
    shape = (1, 3, SIZES[precision], SIZES[precision])
    if precision == "onnx":
        program = torch.onnx.export(network.eval(), (torch.zeros(*shape),), dynamo=True)
        return program.model_proto.SerializeToString()
    path = folder / "float.tflite"
    litert_torch.convert(network.eval(), (torch.zeros(*shape),)).export(str(path))
    return path.read_bytes() if precision == "float" else quantized(path, shape)


def quantized(path: Path, shape: tuple[int, ...]) -> bytes:
    """The static INT8 version of a float .tflite."""
    from ai_edge_litert.interpreter import Interpreter
    from ai_edge_quantizer import quantizer, recipe

    ((key, names),) = Interpreter(str(path)).get_signature_list().items()
    draw = np.random.default_rng(0)
    feed = [{names["inputs"][0]: draw.standard_normal(shape).astype(np.float32)} for _ in range(8)]
    work = quantizer.Quantizer(str(path))
    work.load_quantization_recipe(recipe.static_wi8_ai8())
    out = path.with_name("int8.tflite")
    work.quantize(work.calibrate({key: feed})).export_model(str(out))
    return out.read_bytes()


def seal_model(out: Path, content: bytes, precision: str) -> Path:
    """A bundle around one of them."""
    size = SIZES[precision]
    form, runtime, package = RUNTIMES["onnx" if precision == "onnx" else "litert"]
    shape = (1, 3, size, size)
    limit = Limit(
        figure="artifact_bytes",
        sense=Sense.AT_MOST,
        bound=1e9,
        unit="bytes",
        accepts=(EvidenceKind.HOST,),
    )
    figure = exact("artifact_bytes", float(len(content)), "bytes", "size of the file")
    names = {"image": "golden/inputs/image.npy", "scores": "golden/outputs/scores.npy"}
    files = {
        f"model/model.{form}": content,
        names["image"]: _npy(np.zeros(shape, np.float32)),
        names["scores"]: _npy(np.zeros((1, CLASSES), np.float32)),
    }
    artifact = Artifact(
        format=form,
        runtime=runtime,
        entry=f"model/model.{form}",
        precision="int8" if precision == "int8" else "float32",
        inputs=(Binding(name="image", position=0),),
        outputs=(Binding(name="scores", position=0),),
    )
    contract = Contract(
        inputs=(
            InputContract(
                name="image", dtype="float32", shape=shape, source=Tensor(shape=shape[1:])
            ),
        ),
        outputs=(OutputContract(name="scores", dtype="float32", shape=(1, CLASSES)),),
    )
    manifest = Manifest(
        schema=SCHEMA,
        name="overhead",
        device="laptop",
        target=runtime,
        components=(Component(name="model", artifact=artifact, contract=contract),),
        files=(),
        golden=Golden(
            samples=1,
            inputs={"image": names["image"]},
            outputs={"scores": names["scores"]},
            tolerance={"scores": 1e9},
        ),
        lineage=Lineage(model="", source="", calibration="", evaluation=""),
        strategy=Strategy(steps=()),
        limits=(limit,),
        waived=(),
        seed=0,
        effort="quick",
        metric="none",
        versions={},
        toolchain="",
        minimum_runtime={package: "1.0"},
    )
    verdict = deliver_verdict((limit,), {figure.name: figure})
    host = Host(system="", machine="", processor="", cores=1, ram_bytes=0, features=())
    seal_bundle(
        out,
        manifest,
        files,
        lambda bundle_id: Evidence(
            schema=SCHEMA, bundle_id=bundle_id, host=host, figures=(figure,), verdict=verdict
        ),
    )
    return out


def _npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()
