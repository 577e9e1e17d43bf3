"""Small real benches: digits that scikit-learn carries, and three small models that read them.

``digits`` writes the data once; ``cnn_bench``, ``mlp_bench`` and ``transformer_bench`` put a model
on a bench. Models come with random weights of a fixed seed; ``fit`` trains one in a plain torch
loop of a second or two, so that there is something to lose.
"""

import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from edgekit.compress.bench import Bench
from edgekit.core.contract import Contract, Image, InputContract, OutputContract
from edgekit.core.progress import Reporter
from edgekit.data.checks import write_checked
from edgekit.data.dataset import TARGET, Dataset
from edgekit.evaluate.metrics import resolve_metric

CLASSES, SIDE = 10, 8
PIXELS = Image(height=SIDE, width=SIDE, channels=1, mean=(0.3,), deviation=(0.35,), scale=1 / 16)
SILENT = Reporter(stage="test")


@dataclass(frozen=True)
class Digits:
    """1,200 samples to train on, 64 of them for statistics, and 400 others to choose on."""

    training: Dataset
    calibration: Dataset
    selection: Dataset


class TinyCnn(nn.Module):
    """A stem, a residual block, a depthwise and a pointwise convolution, a classifier."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3, padding=1, bias=False)
        self.stem_norm = nn.BatchNorm2d(width)
        self.first = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.first_norm = nn.BatchNorm2d(width)
        self.second = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.second_norm = nn.BatchNorm2d(width)
        self.depthwise = nn.Conv2d(width, width, 3, stride=2, padding=1, groups=width, bias=False)
        self.pointwise = nn.Conv2d(width, 2 * width, 1)
        self.classifier = nn.Linear(2 * width, CLASSES)

    def forward(self, image: Tensor) -> Tensor:
        stem = functional.relu(self.stem_norm(self.stem(image)))
        inner = functional.relu(self.first_norm(self.first(stem)))
        block = functional.relu(self.second_norm(self.second(inner)) + stem)
        late = functional.relu(self.pointwise(self.depthwise(block)))
        return self.classifier(late.mean(dim=(2, 3)))


class TinyMlp(nn.Module):
    """Three linear layers."""

    def __init__(self, width: int = 48) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(),
            nn.Linear(SIDE * SIDE, width),
            nn.ReLU(),
            nn.Linear(width, width),
            nn.ReLU(),
            nn.Linear(width, CLASSES),
        )

    def forward(self, image: Tensor) -> Tensor:
        return self.layers(image)


class Attention(nn.Module):
    """Self-attention with separate projections."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.num_heads = heads
        self.query, self.key = nn.Linear(width, width), nn.Linear(width, width)
        self.value, self.out = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        batch, length, _ = tokens.shape

        def heads(values: Tensor) -> Tensor:
            return values.view(batch, length, self.num_heads, -1).transpose(1, 2)

        mixed = functional.scaled_dot_product_attention(
            heads(self.query(tokens)), heads(self.key(tokens)), heads(self.value(tokens))
        )
        return self.out(mixed.transpose(1, 2).reshape(batch, length, -1))


class Layer(nn.Module):
    """Attention and a feed-forward part, normalized before."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.attention_norm, self.attention = nn.LayerNorm(width), Attention(width, heads)
        self.ffn_norm = nn.LayerNorm(width)
        self.ffn_in, self.ffn_out = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.dropout(self.attention(self.attention_norm(tokens)))
        inner = functional.gelu(self.ffn_in(self.ffn_norm(tokens)))
        return tokens + self.dropout(self.ffn_out(inner))


class TinyTransformer(nn.Module):
    """Reads the 8 rows of a picture as tokens."""

    def __init__(self, width: int = 32, heads: int = 4, layers: int = 2, dropout: float = 0.1):
        super().__init__()
        self.tokens = nn.Linear(SIDE, width)
        self.places = nn.Parameter(torch.randn(SIDE, width) * 0.5)
        self.layers = nn.ModuleList(Layer(width, heads, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.classifier = nn.Linear(width, CLASSES)

    def forward(self, image: Tensor) -> Tensor:
        tokens = self.tokens(image.flatten(1, 2)) + self.places
        for layer in self.layers:
            tokens = layer(tokens)
        return self.classifier(self.norm(tokens).mean(dim=1))


def state_of(model: nn.Module) -> dict[str, Tensor]:
    """Copies of all parameters and buffers."""
    return {name: value.clone() for name, value in model.state_dict().items()}


def assert_same_state(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> None:
    """The same names and the same bits."""
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


def seeded(make: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    """A model with the random weights of a seed, in eval mode; torch's own generator stays."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return make().eval()


def write_digits(folder: Path) -> Digits:
    """The digits on disk."""
    # Imported here: it takes longer than torch, and a child process has no need of it.
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    pixels = images.reshape(-1, SIDE, SIDE).astype(np.uint8)
    samples = [(pixels[i], int(labels[i])) for i in range(len(pixels))]
    return Digits(
        training=write(samples[:1200], folder / "training"),
        calibration=write(samples[:64], folder / "calibration"),
        selection=write(samples[1200:1600], folder / "selection"),
    )


def write(samples: Iterable[Any], folder: Path) -> Dataset:
    """Samples ``(pixels, label)`` as a dataset, pre-processed as ``PIXELS`` says."""
    checked = write_checked(
        samples, {"image": PIXELS}, folder, set_name=folder.name, needs_target=True
    )
    return checked.dataset


def bench_of(
    model: nn.Module,
    data: Digits,
    checkpoints: Path,
    *,
    teacher: nn.Module | None = None,
    metric: Any = "top-1",
    **changes: Any,
) -> Bench:
    """A bench with this model on it; its teacher is a copy of it unless another is given."""
    frozen = (teacher or copy.deepcopy(model)).eval().requires_grad_(requires_grad=False)
    return Bench(
        model=model,
        teacher=frozen,
        contract=changes.pop("contract", None) or contract(),
        call=changes.pop("call", call),
        training=changes.pop("training", data.training),
        calibration=data.calibration,
        selection=changes.pop("selection", data.selection),
        metric=resolve_metric(metric),
        checkpoints=checkpoints,
        **changes,
    )


def contract(*outputs: tuple[str, tuple[int, ...]]) -> Contract:
    """One picture in; out come class scores, or what is given as (name, shape of a sample)."""
    named = outputs or (("scores", (CLASSES,)),)
    return Contract(
        inputs=(
            InputContract(
                name="image",
                dtype="float32",
                shape=("batch", *PIXELS.element_shape),
                source=PIXELS,
            ),
        ),
        outputs=tuple(
            OutputContract(name=name, dtype="float32", shape=("batch", *shape))
            for name, shape in named
        ),
    )


def call(model: nn.Module, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A model with one output, or with a dict of outputs."""
    found = model(*inputs.values())
    return found if isinstance(found, dict) else {"scores": found}


def fit(model: nn.Module, data: Digits, *, epochs: int = 6, seed: int = 0) -> nn.Module:
    """A plain torch loop that has nothing of edgekit: AdamW, 1e-2, batches of 64; in eval mode.

    On one thread: with another number the sums, and after epochs the whole network, are others.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    rows = next(iter(data.training.batches(data.training.count)))
    inputs, labels = torch.from_numpy(rows["image"]), torch.from_numpy(rows[TARGET]).long()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    draws = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model.train()
        for _ in range(epochs):
            for part in torch.randperm(len(labels), generator=draws).split(64):
                loss = functional.cross_entropy(model(inputs[part]), labels[part])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
    torch.set_num_threads(threads)
    return model.eval()


def cnn_bench(data: Digits, checkpoints: Path, **changes: Any) -> Bench:
    """A small CNN with random weights."""
    return bench_of(seeded(TinyCnn), data, checkpoints, **changes)


def mlp_bench(data: Digits, checkpoints: Path, **changes: Any) -> Bench:
    """A small MLP with random weights."""
    return bench_of(seeded(TinyMlp), data, checkpoints, **changes)


def transformer_bench(data: Digits, checkpoints: Path, **changes: Any) -> Bench:
    """A small transformer with random weights."""
    return bench_of(seeded(TinyTransformer), data, checkpoints, **changes)
