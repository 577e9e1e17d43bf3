"""A workload with adapters as a model that takes its adapter as one more input.

The adapters' numbers become files of the bundle and an input of the contract. What is quantized,
measured and shipped is one model; which adapter it has is chosen call by call.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from edgekit.bundle.paths import collision, path_fault
from edgekit.compile.capture import calm, sample_inputs
from edgekit.compile.flat import flatten_interface
from edgekit.compress.low_rank.adapter_check import require_same_as_merged
from edgekit.compress.low_rank.adapter_files import Adapter, load_adapter
from edgekit.compress.low_rank.adapter_inputs import layout_of, pack, with_adapter_input
from edgekit.compress.low_rank.adapters import fitted
from edgekit.compress.masks import bake_masks, copy_model
from edgekit.core.contract import NO_ADAPTER, InputKind
from edgekit.core.contract import Adapter as AdapterInput
from edgekit.core.errors import WorkloadError
from edgekit.core.workload import Workload
from edgekit.runtime.golden import encode_npy

ADAPTER = "adapter"
FOLDER = "adapters"

Rows = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapted:
    """A workload whose model takes its adapter as an input.

    workload: with that model, and with the input. rows: what can be chosen, a row each: zeros
    first, then the adapters by name. files: the adapters' rows, by their paths in a bundle.
    """

    workload: Workload
    rows: Rows
    files: Mapping[str, Path]
    adapters: tuple[Adapter, ...]
    base: nn.Module

    def check(self) -> None:
        """Compare each adapter's outputs with those of the model that has it merged.

        After capture, which says better what is wrong with a model that does not run.
        Raises: StepError for an adapter that the model does not follow.
        """
        require_same_as_merged(
            self.workload.model.eval(),
            self.base.eval(),
            tuple(zip(self.adapters, torch.from_numpy(self.rows[1:]), strict=True)),
            self._sample(),
        )

    def _sample(self) -> tuple[torch.Tensor, ...]:
        kinds = tuple(self.workload.inputs.values())
        batch = 2 if self.workload.has_dynamic_batch else 1
        drawn = sample_inputs(((kind.element_shape, kind.dtype) for kind in kinds), batch)
        return calm(drawn, kinds)[:-1]


def adapt(workload: Workload, work: Path) -> Adapted:
    """The workload with its adapters as an input; their rows are written below ``work``.

    Raises: WorkloadError for names that cannot be used, and for a model that is no
    torch.nn.Module; StepError for an adapter that does not fit the model, or that can only be
    merged.
    """
    _check(workload)
    names = sorted(workload.adapters)
    base = _plain(workload)
    found = [fitted(load_adapter(Path(workload.adapters[name])), base) for name in names]
    layout = layout_of(base, found)
    rows = np.zeros((len(names) + 1, layout.size), np.float32)
    for row, adapter in zip(rows[1:], found, strict=True):
        row[:] = pack(adapter, layout).numpy()
    files = _write(work / FOLDER, names, rows[1:])
    own = tuple(workload.inputs)
    flat = flatten_interface(_plain(workload), own, tuple(workload.outputs))
    source = AdapterInput(length=layout.size, adapters=dict(zip(names, files, strict=True)))
    inputs: dict[str, InputKind] = {**workload.inputs, ADAPTER: source}
    return Adapted(
        workload=replace(workload, model=with_adapter_input(flat, layout), inputs=inputs),
        rows=rows,
        files=files,
        adapters=tuple(found),
        base=flatten_interface(base, own, tuple(workload.outputs)),
    )


def _plain(workload: Workload) -> nn.Module:
    """A copy of the user's model with plain weights."""
    model = copy_model(workload.model)
    bake_masks(model)
    return model.cpu()


def _check(workload: Workload) -> None:
    if not isinstance(workload.model, nn.Module):
        raise WorkloadError(
            f"{workload.name}: it has adapters, and its model is a "
            f"{type(workload.model).__name__}; adapters are put into the layers of a "
            "torch.nn.Module, which an exported graph has no more: hand over the module"
        )
    if ADAPTER in workload.inputs:
        raise WorkloadError(
            f"{workload.name}: the model has an input '{ADAPTER}' of its own, which is what the "
            "input of its adapters is called; rename it"
        )
    _check_names(workload.name, workload.adapters)


def _check_names(where: str, names: Iterable[str]) -> None:
    for name in names:
        if not isinstance(name, str) or name in NO_ADAPTER:
            raise WorkloadError(
                f"{where}: adapter {name!r}: '' and 'none' stand for the model without one; give "
                "it another name"
            )
        fault = "has a '/'" if "/" in name else path_fault(_path(name))
        if fault:
            raise WorkloadError(
                f"{where}: adapter {name!r}: its file '{_path(name)}' {fault}; give it a name of "
                "letters, digits, '_' and '-'"
            )
    clash = collision(_path(name) for name in names)
    if clash:
        raise WorkloadError(f"{where}: adapters: {clash}; rename one")


def _path(name: str) -> str:
    return f"{FOLDER}/{name}.npy"


def _write(folder: Path, names: Iterable[str], rows: Rows) -> dict[str, Path]:
    folder.mkdir()
    files: dict[str, Path] = {}
    for name, row in zip(names, rows, strict=True):
        files[_path(name)] = folder / f"{name}.npy"
        files[_path(name)].write_bytes(encode_npy(row))
    return files
