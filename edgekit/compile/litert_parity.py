"""Which position of a .tflite is which name of the contract, and whether it computes the same."""

from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.export import ExportedProgram

from edgekit.compile.capture import calm, sample_inputs
from edgekit.core.artifact import Binding
from edgekit.core.contract import Contract
from edgekit.core.errors import CompileError, SessionError
from edgekit.graph.model import Graph
from edgekit.runtime.engine import Engine
from edgekit.runtime.litert import LiteRtEngine

# Float kernels sum in other orders, which costs about 1e-6 a layer; a wrong graph is off by parts
# of the whole. Share of the largest value of the output.
TOLERANCE = 1e-3
SAMPLES = 3
# A dynamic graph must be right away from the batch size that it was traced with.
BATCHES = (1, 3)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bindings:
    """Positions in the artifact's own lists."""

    inputs: tuple[Binding, ...]
    outputs: tuple[Binding, ...]


def bind(graph: Graph, contract: Contract) -> Bindings:
    """Positions by litert-torch's signature, which numbers inputs and outputs in torch's order.

    Raises: CompileError when an input or output of the contract is not in the graph.
    """
    subgraph = graph.subgraphs[0]
    signature = graph.signatures[0] if graph.signatures else None
    inputs = dict(signature.inputs) if signature else {}
    outputs = dict(signature.outputs) if signature else {}
    return Bindings(
        inputs=_positions(
            "input", [item.name for item in contract.inputs], "args_", inputs, subgraph.inputs
        ),
        outputs=_positions(
            "output", [item.name for item in contract.outputs], "output_", outputs, subgraph.outputs
        ),
    )


def _positions(
    kind: str,
    names: Sequence[str],
    prefix: str,
    signature: dict[str, int],
    positions: Sequence[int],
) -> tuple[Binding, ...]:
    found = []
    for number, name in enumerate(names):
        index = signature.get(f"{prefix}{number}")
        if index is None or index not in positions:
            raise CompileError(
                f"{kind} '{name}' is not in the exported graph (it has {', '.join(signature)}); "
                f"the model does not use it, or gives it twice: take it out of the workload"
            )
        found.append(Binding(name=name, position=list(positions).index(index)))
    return tuple(found)


def require_parity(
    content: bytes, program: ExportedProgram, contract: Contract, bindings: Bindings, batch: int
) -> None:
    """Run the .tflite and the program on random inputs. batch: what the file takes, 0 for any.

    Raises: CompileError when any output differs by more than the rounding of float kernels.
    """
    module = program.module()
    try:
        with closing(LiteRtEngine(content)) as engine:
            for rows in (batch,) * SAMPLES if batch else BATCHES:
                _compare(engine, module, contract, bindings, rows)
    except SessionError as error:
        raise CompileError(f"the exported .tflite does not run: {error}") from error


def _compare(
    engine: Engine,
    module: torch.nn.Module,
    contract: Contract,
    bindings: Bindings,
    batch: int,
) -> None:
    shapes = [(tuple(map(int, item.shape[1:])), item.dtype) for item in contract.inputs]
    kinds = [item.source for item in contract.inputs]
    sample = calm(sample_inputs(shapes, batch, seed=batch), kinds)
    with torch.no_grad():
        expected = [value.numpy() for value in module(*sample)]
    given: list[NDArray[np.generic]] = [np.empty(0)] * len(bindings.inputs)
    for binding, value in zip(bindings.inputs, sample, strict=True):
        given[binding.position] = value.numpy().astype(engine.inputs[binding.position].dtype)
    found = engine.run(given)
    pairs = zip(bindings.outputs, expected, strict=True)
    for binding, value in pairs:
        _require_close(binding.name, found[binding.position], value)


def _require_close(name: str, found: NDArray[np.generic], expected: NDArray[np.generic]) -> None:
    if found.shape != expected.shape:
        raise CompileError(
            f"output '{name}' of the exported .tflite has shape {list(found.shape)}, torch gives "
            f"{list(expected.shape)}"
        )
    error = relative_error([found], [expected])
    if not error <= TOLERANCE:
        raise CompileError(
            f"output '{name}' of the exported .tflite differs from torch by {error:.2g} of its "
            f"largest value, at most {TOLERANCE:g} is rounding: the converter changed the model; "
            "report it to litert-torch, or build for another target"
        )


def relative_error(
    found: Iterable[NDArray[np.generic]], expected: Iterable[NDArray[np.generic]]
) -> float:
    """The largest difference as a share of the largest expected value; infinity for new NaN."""
    worst = 0.0
    for a, b in zip(found, expected, strict=True):
        left, right = a.astype(np.float64), b.astype(np.float64)
        is_finite = np.isfinite(right)
        if not (np.isfinite(left) == is_finite).all():
            return float("inf")
        difference = np.abs(left - right)[is_finite].max(initial=0.0)
        scale = np.abs(right)[is_finite].max(initial=0.0)
        worst = max(worst, float(difference / max(scale, np.finfo(np.float32).tiny)))
    return worst
