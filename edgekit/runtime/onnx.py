"""Runs .onnx and .ort artifacts with ONNX Runtime on the CPU (package onnxruntime)."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from edgekit.core.errors import MissingDependencyError, SessionError
from edgekit.runtime.engine import Array, EngineTensor

try:
    import onnxruntime
    from onnxruntime.capi import onnxruntime_pybind11_state as _native
except ImportError as missing:
    raise MissingDependencyError(
        f"the runtime 'onnx' needs onnxruntime, which cannot be imported ({missing}): "
        "pip install 'edgekit[onnx-runtime]'"
    ) from missing


# ONNX Runtime's errors have no common base but Exception: take all that it defines.
_REFUSALS: tuple[type[Exception], ...] = (
    ValueError,
    RuntimeError,
    TypeError,
    *(
        item
        for item in vars(_native).values()
        if isinstance(item, type) and issubclass(item, Exception)
    ),
)
_FATAL_ONLY = 4
# A model in memory may name files of weights, and ONNX Runtime would look for them in the working
# directory: bytes that nobody verified. No file can lie below this path.
_NO_FOLDER = "/dev/null/no-external-weights"
_DTYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
    "tensor(int64)": "int64",
    "tensor(int32)": "int32",
    "tensor(int16)": "int16",
    "tensor(int8)": "int8",
    "tensor(uint8)": "uint8",
    "tensor(uint16)": "uint16",
    "tensor(bool)": "bool",
}


class OnnxEngine:
    """One .onnx or .ort in ONNX Runtime, one operator at a time on ``threads`` threads."""

    inputs: tuple[EngineTensor, ...]
    outputs: tuple[EngineTensor, ...]

    def __init__(self, model: bytes, *, threads: int = 1) -> None:
        """Load exactly these bytes; weights in other files are refused.

        Raises: SessionError when the native parser refuses them.
        """
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        # Errors are raised as well as logged: once is enough.
        options.log_severity_level = _FATAL_ONLY
        options.add_session_config_entry(
            "session.model_external_initializers_file_folder_path", _NO_FOLDER
        )
        try:
            self._session: Any = onnxruntime.InferenceSession(
                model, options, providers=["CPUExecutionProvider"]
            )
        except _REFUSALS as fault:
            raise SessionError(f"ONNX Runtime cannot load the model: {_one_line(fault)}") from fault
        self.inputs = tuple(_describe(item) for item in self._session.get_inputs())
        self.outputs = tuple(_describe(item) for item in self._session.get_outputs())
        self._names = [item.name for item in self.inputs]

    def run(self, arrays: Sequence[Array]) -> list[Array]:
        """Outputs in the artifact's order for inputs in the artifact's order and dtypes.

        Raises: SessionError for what the session refuses, and when it is closed.
        """
        if self._session is None:
            raise SessionError("the ONNX Runtime engine is closed")
        try:
            feeds = dict(zip(self._names, arrays, strict=True))
            results: list[Array] = self._session.run(None, feeds)
        except _REFUSALS as fault:
            raise SessionError(f"ONNX Runtime cannot run the model: {_one_line(fault)}") from fault
        return results

    def close(self) -> None:
        """Give the memory back."""
        self._session = None


def _describe(tensor: Any) -> EngineTensor:
    if tensor.type not in _DTYPES:
        raise SessionError(
            f"ONNX Runtime: '{tensor.name}' is a {tensor.type}; "
            f"an input or output must be one of {', '.join(_DTYPES)}"
        )
    return EngineTensor(
        name=tensor.name,
        dtype=np.dtype(_DTYPES[tensor.type]),
        shape=tuple(size if isinstance(size, int) else -1 for size in tensor.shape),
    )


def _one_line(fault: Exception) -> str:
    return " ".join(str(fault).split())
