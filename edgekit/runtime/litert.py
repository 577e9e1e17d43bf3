"""Runs .tflite artifacts with LiteRT's interpreter (package ai-edge-litert)."""

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, BinaryIO

import numpy as np

from edgekit.core.errors import InputError, MissingDependencyError, SessionError
from edgekit.graph.tflite_peek import holds_dtype
from edgekit.runtime.engine import Array, EngineTensor

try:
    from ai_edge_litert.interpreter import Interpreter, OpResolverType
except ImportError as missing:
    raise MissingDependencyError(
        f"the runtime 'litert' needs ai-edge-litert, which cannot be imported ({missing}): "
        "pip install 'edgekit[litert-runtime]'"
    ) from missing


# What the native code raises for models and tensors that it refuses.
_REFUSALS = (ValueError, RuntimeError)
_stderr_lock = threading.Lock()


class LiteRtEngine:
    """One .tflite in LiteRT's interpreter, by default with its optimized kernels (XNNPACK).

    ``reference`` runs the reference kernels instead: slow, and what golden values are made with.
    ``keeps_inner`` keeps every tensor for ``inner``, with LiteRT's own optimized kernels: XNNPACK
    keeps none. Both run the file as it is, and get the same integers; otherwise 4-bit weights that
    XNNPACK has no kernel for become 8-bit ones in memory (``litert_widen``). notes: where they do
    not, and why.
    """

    inputs: tuple[EngineTensor, ...]
    outputs: tuple[EngineTensor, ...]
    notes: tuple[str, ...] = ()

    def __init__(
        self,
        model: bytes,
        *,
        threads: int = 1,
        reference: bool = False,
        keeps_inner: bool = False,
    ) -> None:
        """Load exactly these bytes, 4-bit weights widened.

        Raises: SessionError when the native parser refuses them.
        """
        if not (reference or keeps_inner):
            model, self.notes = _widened(model)
        resolver = OpResolverType.BUILTIN_REF if reference else OpResolverType.AUTO
        if keeps_inner and not reference:
            resolver = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
        try:
            with _quiet_stderr():
                self._interpreter: Any = Interpreter(
                    model_content=model,
                    num_threads=threads,
                    experimental_op_resolver_type=resolver,
                    experimental_preserve_all_tensors=keeps_inner,
                )
                self._interpreter.allocate_tensors()
        except _REFUSALS as fault:
            raise SessionError(f"LiteRT cannot load the model: {_one_line(fault)}") from fault
        details = self._interpreter.get_input_details()
        results = self._interpreter.get_output_details()
        self.inputs = tuple(_describe(item) for item in details)
        self.outputs = tuple(_describe(item) for item in results)
        self._input_indices: list[int] = [item["index"] for item in details]
        self._output_indices: list[int] = [item["index"] for item in results]
        self._shapes: list[tuple[int, ...]] = [tuple(map(int, item["shape"])) for item in details]

    def run(self, arrays: Sequence[Array]) -> list[Array]:
        """Outputs in the artifact's order for inputs in the artifact's order and dtypes.

        Raises: SessionError for what the interpreter refuses, and when it is closed.
        """
        interpreter = self._interpreter
        if interpreter is None:
            raise SessionError("the LiteRT engine is closed")
        try:
            if [array.shape for array in arrays] != self._shapes:
                self._resize(arrays)
            for index, array in zip(self._input_indices, arrays, strict=True):
                interpreter.set_tensor(index, array)
            interpreter.invoke()
            return [interpreter.get_tensor(index) for index in self._output_indices]
        except _REFUSALS as fault:
            raise SessionError(f"LiteRT cannot run the model: {_one_line(fault)}") from fault

    def _resize(self, arrays: Sequence[Array]) -> None:
        if len(arrays) != len(self.inputs):
            raise SessionError(f"{len(arrays)} inputs were given; the model has {len(self.inputs)}")
        # Until everything is allocated again, no shape counts as set.
        self._shapes = []
        for index, array in zip(self._input_indices, arrays, strict=True):
            self._interpreter.resize_tensor_input(index, array.shape, strict=True)
        self._interpreter.allocate_tensors()
        self._shapes = [array.shape for array in arrays]

    def inner(self, index: int) -> Array:
        """One tensor of the last run by its place in the file; the engine keeps inner tensors.

        Raises: SessionError for a tensor without values, and when it is closed.
        """
        if self._interpreter is None:
            raise SessionError("the LiteRT engine is closed")
        try:
            values: Array = self._interpreter.get_tensor(index)
        except _REFUSALS as fault:
            raise SessionError(f"LiteRT keeps no tensor {index}: {_one_line(fault)}") from fault
        return values

    def close(self) -> None:
        """Give the memory back."""
        self._interpreter = None


def _widened(model: bytes) -> tuple[bytes, tuple[str, ...]]:
    """What the interpreter is to run, and notes on what could not be widened."""
    try:
        if not holds_dtype(model, "int4"):
            return model, ()
    except InputError as fault:
        return model, (f"the model was not searched for weights of 4 bits: {fault}",)
    # Imported here: a reader of whole graphs is one more import of every start, and few need it.
    from edgekit.runtime.litert_widen import widen_weights  # noqa: PLC0415

    widened = widen_weights(model)
    return widened.model, widened.notes


def _describe(details: dict[str, Any]) -> EngineTensor:
    signature = details["shape_signature"]
    shape = signature if len(signature) else details["shape"]
    scales = details["quantization_parameters"]["scales"]
    zero_points = details["quantization_parameters"]["zero_points"]
    if len(scales) > 1:
        raise SessionError(
            f"LiteRT: the tensor '{details['name']}' has {len(scales)} scales; "
            "an input or output must have one"
        )
    return EngineTensor(
        name=details["name"],
        dtype=np.dtype(details["dtype"]),
        shape=tuple(int(size) for size in shape),
        scale=float(scales[0]) if len(scales) else 0.0,
        zero_point=int(zero_points[0]) if len(zero_points) else 0,
    )


def _one_line(fault: Exception) -> str:
    return " ".join(str(fault).split())


@contextmanager
def _quiet_stderr() -> Iterator[None]:
    """Drop the interpreter's INFO lines; what else reaches stderr meanwhile is passed on after.

    The native code writes to the descriptor itself and has no switch for it.
    """
    with _stderr_lock, _nameless_file() as kept:
        try:
            original = os.dup(2)
        except OSError:  # there is no stderr to keep quiet
            yield
            return
        os.dup2(kept.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(original, 2)
            os.close(original)
            kept.seek(0)
            lines = [line for line in kept if not line.startswith(b"INFO: ")]
            if lines:
                os.write(2, b"".join(lines))


def _nameless_file() -> BinaryIO:
    """A file that is gone when it is closed, in memory where the system can."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("edgekit-stderr"), "w+b")
    # Imported here: with what it brings along it takes longer than the interpreter's own module.
    import tempfile  # noqa: PLC0415

    return tempfile.TemporaryFile()
