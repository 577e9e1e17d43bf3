"""Captured, exported and calibrated models, once for all tests of the LiteRT compiler."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit.core.codec import to_plain
from edgekit.core.contract import Contract
from edgekit.core.progress import Event, Reporter
from edgekit.core.stage import StageRequest
from edgekit.core.strategy import Quantize
from edgekit.core.workload import Workload
from edgekit.data.dataset import DatasetWriter
from tests.compile import models

WORKLOADS: dict[str, Callable[[], Workload]] = {
    "cnn": models.cnn_workload,
    "dynamic cnn": lambda: models.cnn_workload(has_dynamic_batch=True),
    "transformer": models.transformer_workload,
    "mlp": models.mlp_workload,
    "two by two": models.two_by_two_workload,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """One model after capture and float export to LiteRT."""

    workload: Workload
    captured: Path
    contract: Contract
    folder: Path
    artifact: Mapping[str, Any]

    def inputs(self, samples: int, seed: int = 0) -> dict[str, np.ndarray]:
        """Random inputs by name: normal floats, token ids below 100."""
        rng = np.random.default_rng(seed)
        return {item.name: self._draw(rng, samples, item) for item in self.contract.inputs}

    @staticmethod
    def _draw(rng: np.random.Generator, samples: int, item: Any) -> np.ndarray:
        shape = (samples, *item.shape[1:])
        if item.dtype.startswith("float"):
            return rng.standard_normal(shape).astype(item.dtype)
        return rng.integers(0, 100, shape).astype(item.dtype)


@dataclass(frozen=True, slots=True)
class Told:
    """A reporter that keeps what it was told."""

    events: list[Event]
    reporter: Reporter

    def of(self, kind: str) -> list[str]:
        return [event.message for event in self.events if event.kind == kind]


@pytest.fixture
def told() -> Told:
    events: list[Event] = []
    return Told(events, Reporter(stage="test", listener=events.append))


def export_request(captured: Path, contract: Contract) -> StageRequest:
    """What ``flow`` sends to the export stage."""
    return StageRequest(
        name="export",
        handler="edgekit.compile.litert:export",
        settings={"contract": to_plain(contract)},
        inputs={"model": str(captured)},
    )


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Exported]:
    """Captures and exports a model by name; each once a session, they take seconds."""
    made: dict[str, Exported] = {}

    def make(name: str) -> Exported:
        if name not in made:
            made[name] = export_workload(WORKLOADS[name](), tmp_path_factory.mktemp("exported"))
        return made[name]

    return make


def export_workload(workload: Workload, root: Path) -> Exported:
    """Capture a workload and export it to LiteRT."""
    from edgekit.compile import litert
    from edgekit.compile.capture import capture

    captured, folder = root / "captured", root / "float"
    captured.mkdir()
    folder.mkdir()
    reporter = Reporter(stage="test")
    contract = capture(workload, captured, reporter).contract
    answer = litert.export(export_request(captured, contract), folder, reporter)
    return Exported(
        workload=workload,
        captured=captured,
        contract=contract,
        folder=folder,
        artifact=answer["artifact"],
    )


def quantize_request(model: Exported, settings: Quantize, calibration: Path) -> StageRequest:
    """What ``flow`` sends to the quantize stage."""
    return StageRequest(
        name="quantize",
        handler="edgekit.compile.litert:quantize",
        settings={
            "artifact": model.artifact,
            "quantize": to_plain(settings),
            "contract": to_plain(model.contract),
        },
        inputs={"float": str(model.folder), "calibration": str(calibration)},
    )


def write_calibration(model: Exported, folder: Path, samples: int = 32) -> Path:
    """A calibration dataset of random inputs."""
    batch = model.inputs(samples, seed=1)
    with DatasetWriter(folder) as writer:
        for row in range(samples):
            writer.append({name: values[row] for name, values in batch.items()})
    return folder


def quantized_file(model: Exported, settings: Quantize, root: Path) -> Path:
    """The .tflite that the quantize stage makes with random calibration data."""
    from edgekit.compile import litert

    calibration, out = write_calibration(model, root / "calibration"), root / "quantized"
    out.mkdir()
    answer = litert.quantize(
        quantize_request(model, settings, calibration), out, Reporter(stage="test")
    )
    return out / answer["artifact"]["entry"]
