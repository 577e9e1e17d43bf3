"""An artifact with its engine: contract arrays in, contract arrays out.

What a session does on a device, less its checks of the user's input: the samples here were
checked when they were written. Every measurement goes through this one door.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from edgekit.core.artifact import Artifact, Binding
from edgekit.core.codec import from_plain
from edgekit.core.contract import Contract
from edgekit.core.errors import SessionError
from edgekit.runtime.engine import Engine, EngineTensor, engine_notes
from edgekit.runtime.engines import load_engine
from edgekit.runtime.ports import InputPort, OutputPort

Array = NDArray[Any]


class Runner:
    """A loaded artifact that runs batches of samples. Use it in a ``with`` block.

    engine: the class to load it with; by default that of the artifact's runtime.
    Raises: SessionError when the engine refuses the artifact, or it has other tensors than the
    contract says.
    """

    def __init__(
        self,
        folder: Path,
        artifact: Artifact,
        contract: Contract,
        *,
        threads: int = 1,
        engine: type[Engine] | None = None,
    ) -> None:
        self.artifact = artifact
        self.contract = contract
        _check_bindings(artifact, contract)
        model = (folder / artifact.entry).read_bytes()
        kind = load_engine(artifact.runtime) if engine is None else engine
        self._engine: Engine = kind(model, threads=threads)
        given = {item.name: item for item in contract.inputs}
        got = {item.name: item for item in contract.outputs}
        self._inputs = [
            InputPort(given[name], tensor, position)
            for name, position, tensor in _tied(artifact.inputs, self._engine.inputs, artifact)
        ]
        self._outputs = [
            OutputPort(got[name], tensor, position)
            for name, position, tensor in _tied(artifact.outputs, self._engine.outputs, artifact)
        ]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._engine.close()

    @property
    def notes(self) -> tuple[str, ...]:
        """What the engine runs otherwise than it should."""
        return engine_notes(self._engine)

    @property
    def batch(self) -> int:
        """How many samples go in at once: the artifact's own number, 1 where it takes any."""
        return self.artifact.batch or 1

    def run(self, arrays: Mapping[str, Array]) -> dict[str, Array]:
        """Outputs by contract name for inputs by contract name.

        Shapes: each input (batch, *sample); a last batch that is short is filled up with copies
        of its last sample, and their outputs are dropped.
        """
        rows = len(next(iter(arrays.values())))
        full = max(rows, self.artifact.batch)
        stored = [
            port.to_stored(port.take(_filled(arrays[port.name], full))) for port in self._inputs
        ]
        results = self._engine.run(stored)
        return {port.name: port.give(results[port.position], full)[:rows] for port in self._outputs}


def open_runner(
    folder: Path,
    artifact: Mapping[str, Any],
    contract: Mapping[str, Any],
    *,
    threads: int,
    engine: type[Engine] | None = None,
) -> Runner:
    """A runner from the plain values that a stage's settings hold."""
    return Runner(
        folder,
        from_plain(Artifact, artifact, where="artifact"),
        from_plain(Contract, contract, where="contract"),
        threads=threads,
        engine=engine,
    )


def _tied(
    bindings: tuple[Binding, ...], tensors: Sequence[EngineTensor], artifact: Artifact
) -> list[tuple[str, int, EngineTensor]]:
    """Name, position and tensor of each binding, in the order of the artifact's own list."""
    ordered = sorted(bindings, key=lambda binding: binding.position)
    positions = [binding.position for binding in ordered]
    if positions != list(range(len(tensors))):
        raise SessionError(
            f"{artifact.entry}: the contract is bound to tensors {positions} and the artifact has "
            f"{len(tensors)}; build it again"
        )
    return [(item.name, item.position, tensors[item.position]) for item in ordered]


def _check_bindings(artifact: Artifact, contract: Contract) -> None:
    for kind, bound, declared in (
        ("inputs", artifact.inputs, contract.inputs),
        ("outputs", artifact.outputs, contract.outputs),
    ):
        names, wanted = {item.name for item in bound}, {item.name for item in declared}
        if names != wanted:
            raise SessionError(
                f"{artifact.entry}: {kind} {', '.join(sorted(names))} are bound, the contract has "
                f"{', '.join(sorted(wanted))}"
            )


def _filled(array: Array, rows: int) -> Array:
    if len(array) == rows:
        return array
    return np.concatenate([array, np.repeat(array[-1:], rows - len(array), axis=0)])
