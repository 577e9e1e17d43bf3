"""What the tests of the ONNX compiler share: captured models, stages, raw ONNX Runtime."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

from edgekit.compile import onnx as stages
from edgekit.compile.capture import capture
from edgekit.core.codec import to_plain
from edgekit.core.contract import Contract
from edgekit.core.progress import Event, Reporter
from edgekit.core.stage import StageRequest
from edgekit.core.strategy import Quantize
from edgekit.core.workload import Workload
from edgekit.data.dataset import DatasetWriter


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A captured model and its float export."""

    workload: Workload
    contract: Contract
    root: Path
    artifact: dict[str, Any]

    @property
    def float_folder(self) -> Path:
        return self.root / "float"

    def quantize(
        self, out: Path, settings: Quantize, calibration: Path | None = None
    ) -> tuple[Mapping[str, Any], list[Event]]:
        """Run the quantize stage into ``out``."""
        events: list[Event] = []
        out.mkdir()
        inputs = {"float": str(self.float_folder)}
        if calibration is not None:
            inputs["calibration"] = str(calibration)
        request = StageRequest(
            name="quantize",
            handler="edgekit.compile.onnx:quantize",
            settings={
                "artifact": self.artifact,
                "quantize": to_plain(settings),
                "contract": to_plain(self.contract),
            },
            inputs=inputs,
        )
        answer = stages.quantize(request, out, Reporter(stage="quantize", listener=events.append))
        return answer, events


def export_model(workload: Workload, root: Path) -> Model:
    """Capture a workload and export it to ONNX."""
    reporter = Reporter(stage="test")
    (root / "model").mkdir(parents=True)
    (root / "float").mkdir()
    captured = capture(workload, root / "model", reporter)
    request = export_request(root / "model", captured.contract)
    answer = stages.export(request, root / "float", reporter)
    return Model(
        workload=workload, contract=captured.contract, root=root, artifact=answer["artifact"]
    )


def export_request(model: Path, contract: Contract) -> StageRequest:
    """The request that flow makes for the export stage."""
    return StageRequest(
        name="export",
        handler="edgekit.compile.onnx:export",
        settings={"contract": to_plain(contract)},
        inputs={"model": str(model)},
    )


def write_samples(folder: Path, samples: list[dict[str, np.ndarray]]) -> Path:
    """A dataset folder."""
    with DatasetWriter(folder) as writer:
        for sample in samples:
            writer.append(sample)
    return folder


def session(model: bytes | Path | onnx.ModelProto, optimized: Path | None = None) -> Any:
    """A raw ONNX Runtime session with one thread; the graph it runs goes to ``optimized``."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    if optimized is not None:
        options.optimized_model_filepath = str(optimized)
    if isinstance(model, onnx.ModelProto):
        model = model.SerializeToString()
    content = model.read_bytes() if isinstance(model, Path) else model
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def operators(model: onnx.ModelProto) -> list[str]:
    """Operator types in order."""
    return [node.op_type for node in model.graph.node]


def constants(model: onnx.ModelProto) -> dict[str, onnx.TensorProto]:
    """Initializers by name."""
    return {item.name: item for item in model.graph.initializer}
