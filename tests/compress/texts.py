"""A tiny causal language model and its bench: whole sentences of a small made-up grammar."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from edgekit.compress.bench import Bench
from edgekit.core.contract import Contract, InputContract, OutputContract, Text
from edgekit.data.dataset import TARGET, Dataset, DatasetWriter
from edgekit.evaluate.builtin import IGNORED_LABEL
from edgekit.evaluate.metrics import resolve_metric

VOCABULARY, LENGTH, PAD = 12, 10, 0


class TinyLanguageModel(nn.Module):
    """One causal attention layer over embeddings; logits of the next token at each."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.tokens = nn.Embedding(VOCABULARY, width)
        self.places = nn.Parameter(torch.randn(LENGTH, width) * 0.1)
        self.layers = nn.ModuleList(_Layer(width) for _ in range(2))
        self.head = nn.Linear(width, VOCABULARY)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        states = self.tokens(ids) + self.places
        for layer in self.layers:
            states = layer(states)
        return self.head(states)


class _Layer(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.num_heads = 2
        self.query, self.key = nn.Linear(width, width), nn.Linear(width, width)
        self.value, self.inner = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, states: Tensor) -> Tensor:
        def heads(values: Tensor) -> Tensor:
            return values.unflatten(-1, (2, -1)).transpose(1, 2)

        made = (heads(layer(states)) for layer in (self.query, self.key, self.value))
        mixed = functional.scaled_dot_product_attention(*made, is_causal=True)
        states = states + mixed.transpose(1, 2).flatten(2)
        return states + functional.gelu(self.inner(states))


def sentences(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Ids and mask: each token is the one before it plus the first one's step; then padding."""
    draws = np.random.default_rng(seed)
    step, start = draws.integers(1, 4, count), draws.integers(1, VOCABULARY, count)
    places = np.arange(LENGTH)
    ids = 1 + (start[:, None] + step[:, None] * places) % (VOCABULARY - 1)
    mask = (places < draws.integers(5, LENGTH + 1, count)[:, None]).astype(np.int64)
    return np.where(mask, ids, PAD).astype(np.int64), mask


def next_labels(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The token after each, -100 where there is none."""
    labels = np.full_like(ids, IGNORED_LABEL)
    is_there = (mask[:, 1:] == 1) & (mask[:, :-1] == 1)
    labels[:, :-1] = np.where(is_there, ids[:, 1:], IGNORED_LABEL)
    return labels


def write_texts(folder: Path, count: int, seed: int, *, has_labels: bool = True) -> Dataset:
    """Sentences on disk."""
    ids, mask = sentences(count, seed)
    labels = next_labels(ids, mask)
    with DatasetWriter(folder) as writer:
        for row in range(count):
            sample = {"ids": ids[row], "mask": mask[row]}
            writer.append(sample | ({TARGET: labels[row]} if has_labels else {}))
        return writer.close()


def text_contract() -> Contract:
    """Ids and mask in, logits out."""
    source = {
        name: Text(tokenizer="tokenizer.json", length=LENGTH, part=name, pad_id=PAD)
        for name in ("ids", "mask")
    }
    return Contract(
        inputs=tuple(
            InputContract(name=name, dtype="int64", shape=("batch", LENGTH), source=item)
            for name, item in source.items()
        ),
        outputs=(
            OutputContract(name="logits", dtype="float32", shape=("batch", LENGTH, VOCABULARY)),
        ),
    )


def text_bench(folder: Path, model: nn.Module, teacher: nn.Module, **changes) -> Bench:
    """A bench with sentences; no labels with ``training=write_texts(..., has_labels=False)``."""
    training = changes.pop("training", None) or write_texts(folder / "training", 256, 0)
    return Bench(
        model=model,
        teacher=teacher.eval().requires_grad_(requires_grad=False),
        contract=text_contract(),
        call=lambda module, inputs: {"logits": module(inputs["ids"], inputs["mask"])},
        training=training,
        calibration=training,
        selection=write_texts(folder / "selection", 64, 1),
        metric=resolve_metric(changes.pop("metric", "nll")),
        checkpoints=folder / "checkpoints",
        **changes,
    )
