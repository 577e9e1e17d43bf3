"""Compressed models in both formats: exported as flow does, run in their own runtimes."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from ai_edge_litert.interpreter import Interpreter
from torch import nn

from edgekit.compile import litert, onnx
from edgekit.compile.capture import capture
from edgekit.core.codec import to_plain
from edgekit.core.contract import InputKind
from edgekit.core.progress import Reporter
from edgekit.core.stage import StageRequest
from tests.compile.models import workload_of

Arrays = Mapping[str, np.ndarray]


def export_both(
    model: nn.Module, kinds: Mapping[str, InputKind], root: Path
) -> dict[str, Callable[[Arrays], np.ndarray]]:
    """By format: from the inputs of one sample to the only output, by the exported file.

    Shapes: inputs with a batch axis of 1.
    """
    reporter = Reporter(stage="test")
    workload = workload_of(model, dict(kinds), ["out"])
    captured = root / "captured"
    captured.mkdir(parents=True)
    contract = capture(workload, captured, reporter).contract
    found: dict[str, Callable[[Arrays], np.ndarray]] = {}
    for name, stages in (("litert", litert), ("onnx", onnx)):
        request = StageRequest(
            name="export",
            handler=f"edgekit.compile.{name}:export",
            settings={"contract": to_plain(contract)},
            inputs={"model": str(captured)},
        )
        folder = root / name
        folder.mkdir()
        artifact = stages.export(request, folder, reporter)["artifact"]
        run = _litert if name == "litert" else _onnx
        found[name] = partial(run, folder, artifact)
    return found


def _litert(folder: Path, artifact: Mapping[str, Any], inputs: Arrays) -> np.ndarray:
    interpreter = Interpreter(model_path=str(folder / artifact["entry"]), num_threads=1)
    interpreter.allocate_tensors()
    given = interpreter.get_input_details()
    for item in artifact["inputs"]:
        interpreter.set_tensor(given[item["position"]]["index"], inputs[item["name"]])
    interpreter.invoke()
    return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])


def _onnx(folder: Path, artifact: Mapping[str, Any], inputs: Arrays) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(folder / artifact["entry"]))
    names = [item.name for item in session.get_inputs()]
    given = {names[item["position"]]: inputs[item["name"]] for item in artifact["inputs"]}
    return session.run(None, given)[0]
