"""ONNX Runtime's own format, which its small builds for phones load."""

from pathlib import Path
from typing import Literal

import onnxruntime

from edgekit.compile.onnx_model import open_session

Platform = Literal["arm", "amd64"]
ORT_MODEL = "model.ort"
# NCHWc weights fit the x86 machine that made them and nothing else.
_PORTABLE = ["NchwcTransformer"]


def convert(model: bytes, path: Path, platform: Platform) -> None:
    """Write the model as .ort with all fusions that run everywhere on this platform.

    Two runs differ in a few hundred bytes at the front: ONNX Runtime (1.31.1) writes its table of
    kernel types in the order of a hash map. Graph and weights are the same.
    Raises: CompileError when ONNX Runtime refuses the model.
    """
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.optimized_model_filepath = str(path)
    options.add_session_config_entry("session.save_model_format", "ORT")
    # Signed activations have integer kernels on Arm; on x86 their QDQ groups become unsigned.
    is_arm = platform == "arm"
    options.add_session_config_entry("session.qdqisint8allowed", "1" if is_arm else "0")
    open_session(model, options=options, disabled_optimizers=_PORTABLE)
