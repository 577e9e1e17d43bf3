"""Rounded layers on disk, one file each, so that a run that was stopped goes on behind them."""

import json
from dataclasses import asdict
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from edgekit.compress.quantization.layers import LayerError, Rounded
from edgekit.core.progress import Reporter
from edgekit.store.files import atomic_write

_OF, _ERROR = "fingerprint", "error"
_WEIGHT, _NEAREST = "weight", "nearest"


class LayerRecords:
    """The layers that one run has finished. fingerprint: of all that its results depend on."""

    def __init__(self, folder: Path, fingerprint: str, reporter: Reporter) -> None:
        self._folder, self._fingerprint, self._reporter = folder, fingerprint, reporter

    def save(self, number: int, rounded: Rounded) -> None:
        """Write one layer; a kill at any moment leaves it whole or not there.

        Raises: OutputError when the folder cannot be written.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        tensors = {_WEIGHT: rounded.weight, _NEAREST: rounded.nearest}
        ready = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
        told = {_OF: self._fingerprint, _ERROR: json.dumps(asdict(rounded.error))}
        atomic_write(self._file(number), save(ready, told))

    def load(self, number: int, like: Tensor) -> Rounded | None:
        """One layer of this very run; None where there is none. like: device and dtype."""
        file = self._file(number)
        if not file.is_file():
            return None
        try:
            with safe_open(file, framework="pt") as stored:
                told = stored.metadata() or {}
                weight, nearest = (stored.get_tensor(name).to(like) for name in (_WEIGHT, _NEAREST))
        except SafetensorError as error:
            self._reporter.warn(f"{file} cannot be read ({error}); the layer is rounded anew")
            return None
        if told.get(_OF) != self._fingerprint:
            return None
        lost = LayerError(**json.loads(told[_ERROR]))
        return Rounded(weight=weight, nearest=nearest, error=lost)

    def _file(self, number: int) -> Path:
        return self._folder / f"rounded-{number:04d}.safetensors"
