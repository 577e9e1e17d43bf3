"""Where a training stands, on disk: written whole or not at all, read without running code.

A checkpoint holds plain numbers and tensors alone, so ``torch.load(weights_only=True)`` reads it.
It belongs to one training: its fingerprint covers the settings, the data, the seed and the weights
that the training began with. One of another training is not taken up.
"""

import hashlib
import os
import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from edgekit.core.codec import canonical_json
from edgekit.core.progress import Reporter
from edgekit.store.files import writing_to

FILE = "checkpoint.pt"
SCHEMA = 1

Tensors = dict[str, Tensor]
# What torch.load raises for a file that is none of its own, or is damaged.
_UNREADABLE = (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError, TypeError)


@dataclass(slots=True, kw_only=True)
class Checkpoint:
    """All that a training needs to go on.

    epoch, batch: the next to run, counted from 0. loss_sum, loss_batches: of the epoch so far.
    first_loss: of the very first batch.
    stale_epochs: since the metric was last better. best_*: the best weights so far, the masks that
    went with them, and where they are among the points. points: plain values of each. tensors,
    average: weights and statistics as they stand, and their moving average. masks: where weights
    stay. seconds: spent so far, and in this epoch. A finished training keeps its best weights and
    points alone.
    """

    fingerprint: str
    epoch: int = 0
    batch: int = 0
    seconds: float = 0.0
    epoch_seconds: float = 0.0
    loss_sum: float = 0.0
    loss_batches: int = 0
    first_loss: float = 0.0
    stale_epochs: int = 0
    best_score: float = 0.0
    best_point: int = 0
    is_finished: bool = False
    points: list[dict[str, Any]] = field(default_factory=list)
    tensors: Tensors = field(default_factory=dict)
    average: Tensors = field(default_factory=dict)
    best: Tensors = field(default_factory=dict)
    best_masks: Tensors = field(default_factory=dict)
    masks: Tensors = field(default_factory=dict)
    optimizer: dict[str, Any] = field(default_factory=dict)
    scaler: dict[str, Any] = field(default_factory=dict)


def save_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint over the one before it; a kill at any moment leaves one of the two.

    Raises: OutputError when the folder cannot be written.
    """
    content = {item.name: getattr(checkpoint, item.name) for item in fields(checkpoint)}
    path = folder / FILE
    part = path.with_suffix(".part")
    with writing_to(folder, "make room there, or choose another cache"):
        folder.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as stream:
            _write({"schema": SCHEMA, **content}, stream)
        part.replace(path)


def load_checkpoint(folder: Path, fingerprint: str, reporter: Reporter) -> Checkpoint | None:
    """The checkpoint of this very training; None where there is none.

    One that cannot be read, or is of another training, is left aside and said so: training then
    starts from the beginning, which costs time and never a result.
    """
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        is_known = content.pop("schema") == SCHEMA
        found = Checkpoint(**content) if is_known else None
    except _UNREADABLE as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        reporter.warn(f"{path} cannot be read ({reason}); training starts from the beginning")
        return None
    if found is None or found.fingerprint != fingerprint:
        reporter.note(
            f"{path} is of a training with other settings, data or weights; this one starts from "
            "the beginning"
        )
        return None
    return found


def fingerprint_of(facts: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """sha256 over plain facts and the names, dtypes, shapes and bytes of tensors."""
    digest = hashlib.sha256(canonical_json({"schema": SCHEMA, **facts}))
    for name, value in sorted(tensors.items()):
        digest.update(f"{len(name)}:{name}|{value.dtype}|{list(value.shape)}|".encode())
        flat = value.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _write(content: Mapping[str, Any], stream: BinaryIO) -> None:
    torch.save(content, stream)
    stream.flush()
    os.fsync(stream.fileno())
