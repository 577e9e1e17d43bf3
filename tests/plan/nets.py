"""Small nets whose sizes are foreseen, and then really made."""

from pathlib import Path

import torch
from torch import nn

from edgekit.compile import litert, onnx
from edgekit.compile.capture import capture
from edgekit.compile.strip import strip_bytes
from edgekit.core.codec import to_plain
from edgekit.core.contract import Tensor
from edgekit.core.facts import ModelFacts
from edgekit.core.progress import Reporter
from edgekit.core.stage import StageRequest
from edgekit.core.strategy import Quantize
from edgekit.data.dataset import DatasetWriter
from tests.compile.models import trained_like, workload_of
from tests.compress.architecture_parts import Classified, Residual, conv

IMAGE = Tensor(shape=(1, 28, 28))
_REPORTER = Reporter(stage="test")


def resnet(blocks: int = 3, widths: tuple[int, ...] = (16, 32, 64)) -> nn.Module:
    """A ResNet of 6 * blocks + 2 layers for 28 by 28 grey pixels, seeded weights."""
    layers: list[nn.Module] = [conv(1, widths[0])]
    before = widths[0]
    for stage, width in enumerate(widths):
        for block in range(blocks):
            layers.append(Residual(before, width, 2 if stage and not block else 1))
            before = width
    return trained_like(Classified(nn.Sequential(*layers), before))


def images(count: int = 2) -> torch.Tensor:
    """Normal floats."""
    return torch.randn((count, 1, 28, 28), generator=torch.Generator().manual_seed(0))


def parameters(model: nn.Module) -> int:
    """Counted by torch."""
    return sum(value.numel() for value in model.parameters())


def facts_of(model: nn.Module, folder: Path, kind: Tensor = IMAGE) -> ModelFacts:
    """What a capture finds."""
    folder.mkdir(exist_ok=True)
    return capture(workload_of(model, {"x": kind}, ["out"]), folder, _REPORTER).facts


def built_bytes(model: nn.Module, folder: Path, target: str, settings: Quantize | None) -> int:
    """The bytes of the file that a build would ship: exported, quantized, stripped."""
    stages, model_format = {"litert": (litert, "tflite"), "onnx": (onnx, "onnx")}[target]
    captured, exported, calibration = (folder / name for name in ("captured", target, "data"))
    captured.mkdir(parents=True)
    contract = capture(workload_of(model, {"x": IMAGE}, ["out"]), captured, _REPORTER).contract
    exported.mkdir()
    request = StageRequest(
        name="export",
        handler="export",
        settings={"contract": to_plain(contract)},
        inputs={"model": str(captured)},
    )
    artifact = stages.export(request, exported, _REPORTER)["artifact"]
    if settings is not None:
        with DatasetWriter(calibration) as writer:
            for image in images(8):
                writer.append({"x": image.numpy()})
        quantized = folder / "quantized"
        quantized.mkdir()
        request = StageRequest(
            name="quantize",
            handler="quantize",
            settings={"artifact": to_plain(artifact), "quantize": to_plain(settings)},
            inputs={"float": str(exported), "calibration": str(calibration)},
        )
        artifact, exported = stages.quantize(request, quantized, _REPORTER)["artifact"], quantized
    whole = (exported / artifact["entry"]).read_bytes()
    return len(strip_bytes(whole, model_format, name=artifact["entry"]))
