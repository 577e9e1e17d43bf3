"""A session: one verified component of a bundle, loaded, that runs arrays and raw samples."""

import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from edgekit.bundle.manifest import Component, Evidence, Manifest
from edgekit.bundle.verify import VerifiedBundle
from edgekit.core.codec import nearest
from edgekit.core.contract import NO_ADAPTER, Contract, InputContract, Text
from edgekit.core.errors import InputError, SessionError
from edgekit.data.preprocess import prepare
from edgekit.runtime.engine import Array, Engine, EngineTensor, engine_notes
from edgekit.runtime.engines import open_engine
from edgekit.runtime.ports import InputPort, OutputPort
from edgekit.runtime.requirements import check_minimum_versions

if TYPE_CHECKING:
    from edgekit.runtime.adapters import AdapterPort, Choice
    from edgekit.runtime.golden import SelfTest
    from edgekit.runtime.prediction import Prediction


class TensorSession:
    """Runs one model of a bundle; a context manager, safe to use from several threads.

    ``run`` takes and gives arrays as the contract declares them; ``predict`` takes raw samples
    and gives labels. Calls from several threads run one after the other.
    """

    def __init__(
        self,
        bundle: VerifiedBundle,
        *,
        threads: int = 1,
        component: str = "",
        adapter: str = NO_ADAPTER[-1],
    ) -> None:
        """Load the verified bytes of one component.

        adapter: the one of calls that name none; "" and "none" are the model without any.
        Raises: SessionError when the engine refuses them or they do not match the contract, and
        for an adapter that the bundle has not; MissingDependencyError when the engine is not
        installed.
        """
        if not isinstance(threads, int) or threads < 1:
            raise SessionError(f"threads is {threads!r}; it must be a whole number from 1 up")
        self._bundle = bundle
        self._component = _pick(bundle.manifest, component)
        artifact = self._component.artifact
        if artifact.interface != "tensor":
            raise SessionError(
                f"component '{self._component.name}' has the interface '{artifact.interface}'; "
                "this session serves 'tensor'"
            )
        check_minimum_versions(bundle.manifest.minimum_runtime)
        self._lock = threading.Lock()
        self._engine: Engine | None = open_engine(
            artifact.runtime, bundle.read(artifact.entry), threads=threads
        )
        self._notes = engine_notes(self._engine)
        self._rows_per_call = artifact.batch
        inputs, self._outputs = _tie(self._component, self._engine)
        self._adapters = _adapter_port(inputs, self.contract, bundle)
        self._inputs = tuple(port for port in inputs if port.contract in self.contract.given_inputs)
        self._adapter: str | Sequence[str] = adapter
        self._check_adapter(adapter)
        self._input_names = frozenset(port.name for port in self._inputs)
        self._has_named_axes = any(
            isinstance(size, str) for port in self._inputs for size in port.contract.shape[1:]
        )

    @property
    def contract(self) -> Contract:
        """What goes in and what comes out."""
        return self._component.contract

    @property
    def manifest(self) -> Manifest:
        """What the bundle is."""
        return self._bundle.manifest

    @property
    def evidence(self) -> Evidence:
        """How the bundle did, where it was measured."""
        return self._bundle.evidence

    @property
    def bundle_id(self) -> str:
        """sha256 of the manifest."""
        return self._bundle.bundle_id

    @property
    def notes(self) -> tuple[str, ...]:
        """What runs otherwise than it should: 4-bit weights that could not be widened."""
        return self._notes

    @property
    def adapters(self) -> tuple[str, ...]:
        """The names of the adapters that can be chosen; none of them is "none"."""
        return () if self._adapters is None else self._adapters.names

    def run(self, inputs: Mapping[str, Any] | Any, *, adapter: "Choice" = None) -> dict[str, Array]:
        """Outputs by name for a batch of prepared inputs by name (or the only input itself).

        adapter: of this call, by name, or one for each row; None is the session's own.
        Shapes: the batch axis first; any number of rows, whatever batch the artifact was made for.
        Raises: SessionError for wrong names, shapes or dtypes, and when the session is closed.
        """
        arrays = self._take(inputs)
        rows = arrays[0].shape[0]
        choice = self._adapter if adapter is None else adapter
        if adapter is not None:
            self._check_adapter(adapter, rows)
        step = self._rows_per_call
        if step in (0, rows):
            return self._call(arrays, rows, choice)
        if rows % step:
            raise SessionError(
                f"the batch has {rows} rows; the artifact takes {step} at a time: pass a multiple"
            )
        parts = [
            self._call(
                [array[start : start + step] for array in arrays],
                step,
                choice if isinstance(choice, str) else choice[start : start + step],
            )
            for start in range(0, rows, step)
        ]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def predict(
        self, raw: Mapping[str, Any] | Any, *, top: int = 5, adapter: str | None = None
    ) -> "Prediction":
        """The prediction for one raw sample, prepared as the contract declares.

        raw: a path, picture, sound, text or array for the only input (or for all parts of one
        text), else a mapping by input name. top: how many labels to give. adapter: as in ``run``.
        Raises: SessionError for what cannot be prepared, and for NaN in it.
        """
        # Imported here, as in `self_test`: an app that runs arrays opens sooner without it.
        from edgekit.runtime.prediction import predict_outputs  # noqa: PLC0415

        sample = {port.name: self._prepare(port.contract, raw) for port in self._inputs}
        if isinstance(raw, Mapping):
            self._check_names(raw)
        # An artifact of a fixed batch gets the sample as often as it must.
        rows = max(1, self._rows_per_call)
        batch = {name: np.broadcast_to(x, (rows, *x.shape)) for name, x in sample.items()}
        results = {name: array[0] for name, array in self.run(batch, adapter=adapter).items()}
        meanings = {item.name: item.meaning for item in self.contract.outputs}
        return predict_outputs(results, meanings, top=top)

    def self_test(self) -> "SelfTest":
        """Run the bundle's golden inputs and compare all outputs.

        Raises: SessionError when the bundle's golden vectors belong to another component.
        """
        from functools import partial  # noqa: PLC0415

        from edgekit.runtime.golden import run_self_test  # noqa: PLC0415

        if self._component is not self.manifest.components[0]:
            raise SessionError(
                f"golden vectors are for component '{self.manifest.components[0].name}', "
                f"this is '{self._component.name}'"
            )
        golden = self.manifest.golden
        run = partial(self.run, adapter=golden.adapters)
        return run_self_test(golden, self._bundle.read, run)

    def close(self) -> None:
        """Give the engine's memory back; closing twice is fine."""
        with self._lock:
            engine, self._engine = self._engine, None
            if engine is not None:
                engine.close()

    def __enter__(self) -> Self:
        """The session itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    def _take(self, inputs: Mapping[str, Any] | Any) -> list[Array]:
        if isinstance(inputs, Mapping):
            if frozenset(inputs) != self._input_names:
                self._check_names(inputs)
            arrays = [port.take(inputs[port.name]) for port in self._inputs]
        elif len(self._inputs) == 1:
            return [self._inputs[0].take(inputs)]
        else:
            names = ", ".join(sorted(self._input_names))
            raise SessionError(f"the model has {len(self._inputs)} inputs; pass a dict by: {names}")
        if len(arrays) > 1 or self._has_named_axes:
            self._check_axes(arrays)
        return arrays

    def _check_names(self, inputs: Mapping[str, Any]) -> None:
        allowed = sorted(self._input_names)
        for name in inputs:
            if name not in self._input_names:
                raise SessionError(f"there is no input '{name}'{nearest(str(name), allowed)}")
        for name in allowed:
            if name not in inputs:
                raise SessionError(f"input '{name}' is missing; wanted: {', '.join(allowed)}")

    def _check_axes(self, arrays: list[Array]) -> None:
        seen: dict[str, tuple[int, str]] = {}
        for port, array in zip(self._inputs, arrays, strict=True):
            for axis, size in (("batch axis", array.shape[0]), *port.sizes(array)):
                other_size, other = seen.setdefault(axis, (size, port.name))
                if other_size != size:
                    raise SessionError(
                        f"input '{port.name}': '{axis}' is {size}, but {other_size} in '{other}'"
                    )

    def _check_adapter(self, choice: str | Sequence[str], rows: int = 0) -> None:
        if self._adapters is not None:
            self._adapters.check(choice)
        elif isinstance(choice, str) and choice in NO_ADAPTER:
            return
        else:
            raise SessionError(f"adapter {choice!r}: this bundle has no adapters to choose from")
        if rows and not isinstance(choice, str) and len(choice) != rows:
            raise SessionError(f"{len(choice)} adapters are named for a batch of {rows}")

    def _call(
        self, arrays: list[Array], rows: int, choice: str | Sequence[str]
    ) -> dict[str, Array]:
        stored = [port.to_stored(array) for port, array in zip(self._inputs, arrays, strict=True)]
        if self._adapters is not None:
            stored.insert(self._adapters.position, self._adapters.stored(choice, rows))
        with self._lock:
            if self._engine is None:
                raise SessionError("the session is closed; open the bundle again")
            results = self._engine.run(stored)
        return {port.name: port.give(results[port.position], rows) for port in self._outputs}

    def _prepare(self, item: InputContract, raw: Any) -> Array:
        value = self._raw_of(item, raw)
        try:
            array = prepare(
                value, item.source, where=f"input '{item.name}'", assets=self._bundle.contents
            )
        except InputError as fault:
            raise SessionError(str(fault)) from fault
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise SessionError(f"input '{item.name}': holds NaN or infinite values")
        return array

    def _raw_of(self, item: InputContract, raw: Any) -> Any:
        if isinstance(raw, Mapping):
            if item.name not in raw:
                self._check_names(raw)
            return raw[item.name]
        are_texts = all(isinstance(port.contract.source, Text) for port in self._inputs)
        if len(self._inputs) > 1 and not are_texts:
            names = ", ".join(sorted(self._input_names))
            raise SessionError(f"the model has {len(self._inputs)} inputs; pass a dict by: {names}")
        return raw


def _pick(manifest: Manifest, name: str) -> Component:
    components = {item.name: item for item in manifest.components}
    if not name and len(components) == 1:
        return manifest.components[0]
    if not name:
        raise SessionError(f"the bundle has several components; name one of {sorted(components)}")
    if name not in components:
        raise SessionError(f"the bundle has no component '{name}'{nearest(name, list(components))}")
    return components[name]


def _tie(
    component: Component, engine: Engine
) -> tuple[tuple[InputPort, ...], tuple[OutputPort, ...]]:
    """The contract's inputs in the artifact's order, and its outputs in the contract's."""
    artifact, contract = component.artifact, component.contract
    takes = {item.name: item for item in contract.inputs}
    gives = {item.name: item.position for item in artifact.outputs}
    if sorted(item.position for item in artifact.inputs) != list(range(len(engine.inputs))):
        raise SessionError(
            f"the artifact has {len(engine.inputs)} inputs; the manifest binds "
            f"{[f'{item.name} to {item.position}' for item in artifact.inputs]}"
        )
    _check_batch(artifact.batch, engine.inputs)
    inputs = tuple(
        InputPort(takes[item.name], engine.inputs[item.position], item.position)
        for item in sorted(artifact.inputs, key=lambda item: item.position)
    )
    for name, position in gives.items():
        if position >= len(engine.outputs):
            raise SessionError(
                f"output '{name}' is bound to position {position}; "
                f"the artifact has {len(engine.outputs)} outputs"
            )
    outputs = tuple(
        OutputPort(item, engine.outputs[gives[item.name]], gives[item.name])
        for item in contract.outputs
    )
    return inputs, outputs


def _adapter_port(
    ports: tuple[InputPort, ...], contract: Contract, bundle: VerifiedBundle
) -> "AdapterPort | None":
    """The port that takes the adapter, where the contract has one."""
    if contract.adapter is None:
        return None
    # Imported here, as in `predict`: most bundles have none.
    from edgekit.runtime.adapters import AdapterPort  # noqa: PLC0415

    port = next(port for port in ports if port.name == contract.adapter.name)
    return AdapterPort(port, contract.adapters, bundle.read)


def _check_batch(batch: int, tensors: tuple[EngineTensor, ...]) -> None:
    for tensor in tensors:
        first = tensor.shape[0] if tensor.shape else None
        if first not in (-1, batch) or (first is None):
            wanted = "any batch" if batch == 0 else f"a batch of {batch}"
            raise SessionError(
                f"the artifact's input '{tensor.name}' has shape {tensor.shape}; "
                f"the manifest says that it takes {wanted}"
            )
