"""Whether an exported graph computes what the captured program computes."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from edgekit.compile.onnx_model import RUNTIME_ERRORS, first_line, open_session
from edgekit.core.contract import Adapter, Contract
from edgekit.core.errors import CompileError

Array = NDArray[Any]
# Two float32 implementations of one deep net differ by rounding: relative to the largest output.
RELATIVE_TOLERANCE = 1e-3
# The batch sizes that are tried where the batch axis may vary.
_BATCHES = (2, 3, 1)


def require_parity(
    model: bytes, program: torch.export.ExportedProgram, contract: Contract, seed: int
) -> None:
    """Run both on the same seeded random inputs and compare every output.

    Raises: CompileError with the worst difference where one is past float tolerance.
    """
    session, reference = open_session(model), program.module()
    for inputs in random_inputs(contract, seed):
        with torch.no_grad():
            wanted = reference(*(torch.from_numpy(item) for item in inputs.values()))
        try:
            found = session.run(None, inputs)
        except RUNTIME_ERRORS as error:
            raise CompileError(
                f"the exported ONNX graph does not run on inputs of the contract's shapes: "
                f"{first_line(error)}"
            ) from error
        for output, one, two in zip(contract.outputs, wanted, found, strict=True):
            compare(output.name, one.numpy(), two)


def random_inputs(contract: Contract, seed: int) -> Iterator[Mapping[str, Array]]:
    """One set of inputs for each batch size: normal floats; integers 0 and 1.

    0 and 1 are valid as token ids of any vocabulary, as masks and as types.
    """
    draw = np.random.default_rng(seed)
    sizes = _BATCHES if contract.has_dynamic_batch else (1,)
    for size in sizes:
        inputs = {}
        for item in contract.inputs:
            shape = [length if isinstance(length, int) else size for length in item.shape]
            dtype = np.dtype(item.dtype)
            is_float = np.issubdtype(dtype, np.floating)
            values = draw.standard_normal(shape) if is_float else draw.integers(0, 2, shape)
            spread = item.source.spread if isinstance(item.source, Adapter) else 1
            inputs[item.name] = (values * spread).astype(dtype)
        yield inputs


def compare(name: str, wanted: Array, found: Array) -> None:
    """Raise CompileError unless two values of an output agree within float tolerance."""
    if wanted.shape != found.shape:
        raise CompileError(
            f"output '{name}' has shape {list(found.shape)} in ONNX, {list(wanted.shape)} in torch"
        )
    if not np.issubdtype(wanted.dtype, np.floating):
        different = int((wanted != found).sum())
        if different:
            raise CompileError(f"output '{name}': {different} of {wanted.size} integers differ")
        return
    scale = max(1.0, float(np.abs(wanted[np.isfinite(wanted)]).max(initial=0)))
    if not np.allclose(wanted, found, rtol=0, atol=RELATIVE_TOLERANCE * scale, equal_nan=True):
        worst = float(np.nanmax(np.abs(wanted - found)))
        raise CompileError(
            f"output '{name}' of the exported ONNX graph differs from torch by {worst:.3g} (values "
            f"up to {scale:.3g}, allowed {RELATIVE_TOLERANCE * scale:.3g}) on random inputs; the "
            "exporter changed what the model computes"
        )
