"""Samples to compare on: a bundle's golden inputs, or the user's own, as the contract has them."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from edgekit.bundle.verify import VerifiedBundle
from edgekit.core.contract import NO_ADAPTER, Contract, InputContract, Text
from edgekit.core.errors import InputError
from edgekit.data.preprocess import prepare
from edgekit.measure.debug import Sample
from edgekit.runtime.engine import Array
from edgekit.runtime.golden import decode_npy


def golden_samples(bundle: VerifiedBundle, count: int | None, rows: int) -> list[Sample]:
    """The golden samples of a bundle, ``rows`` at a time; a last part that is short is filled up.

    count: how many at most; None for all.
    Raises: InputError for a count below 1; BundleError for files that are no arrays.
    """
    golden = bundle.manifest.golden
    if count is not None and count < 1:
        raise InputError(f"samples is {count}; it must be 1 or more")
    total = min(count or golden.samples, golden.samples)
    inputs = _arrays(bundle, golden.inputs)
    outputs = _arrays(bundle, golden.outputs)
    adapters = golden.adapters or (NO_ADAPTER[-1],) * golden.samples
    found = []
    for start in range(0, total, rows):
        chosen = np.minimum(np.arange(start, start + rows), total - 1)
        names = [adapters[place] for place in chosen]
        found.append(
            Sample(
                inputs={
                    **{name: array[chosen] for name, array in inputs.items()},
                    **_adapter_rows(bundle, names),
                },
                golden={name: array[chosen] for name, array in outputs.items()},
            )
        )
    return found


def given_samples(
    bundle: VerifiedBundle, raws: Iterable[Mapping[str, Any] | Any], rows: int
) -> list[Sample]:
    """The user's samples, prepared as the contract declares; each is repeated to fill ``rows``.

    Raises: InputError for what cannot be prepared, and where there is none.
    """
    contract = bundle.manifest.components[0].contract
    found = []
    for raw in raws:
        arrays = {
            item.name: _prepared(bundle, item, _raw_of(contract, item, raw))
            for item in contract.given_inputs
        }
        batch = {name: np.repeat(array[None], rows, axis=0) for name, array in arrays.items()}
        adapter = _adapter_rows(bundle, [NO_ADAPTER[-1]] * rows)
        found.append(Sample(inputs={**batch, **adapter}))
    if not found:
        raise InputError("there is no sample to compare on: give at least one, or leave them out")
    return found


def _arrays(bundle: VerifiedBundle, paths: Mapping[str, str]) -> dict[str, Array]:
    return {name: decode_npy(bundle.read(path), where=path) for name, path in paths.items()}


def _adapter_rows(bundle: VerifiedBundle, names: list[str]) -> dict[str, Array]:
    """The input of adapters, where the model has one, for the adapter of each row."""
    contract = bundle.manifest.components[0].contract
    if contract.adapter is None:
        return {}
    paths, length = contract.adapters, int(contract.adapter.shape[1])
    rows = [
        np.zeros(length, np.float32)
        if name in NO_ADAPTER
        else decode_npy(bundle.read(paths[name]), where=paths[name])
        for name in names
    ]
    return {contract.adapter.name: np.stack(rows)}


def _prepared(bundle: VerifiedBundle, item: InputContract, value: Any) -> Array:
    where = f"input '{item.name}'"
    array = prepare(value, item.source, where=where, assets=bundle.contents)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise InputError(f"{where}: holds NaN or infinite values")
    return array


def _raw_of(contract: Contract, item: InputContract, raw: Mapping[str, Any] | Any) -> Any:
    given = contract.given_inputs
    if isinstance(raw, Mapping):
        if item.name not in raw:
            raise InputError(f"input '{item.name}' is missing from a sample")
        return raw[item.name]
    if len(given) > 1 and not all(isinstance(one.source, Text) for one in given):
        names = ", ".join(one.name for one in given)
        raise InputError(f"the model has {len(given)} inputs; give each sample by name: {names}")
    return raw
