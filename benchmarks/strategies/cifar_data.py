"""The CIFAR-10 pair of this benchmark: published ResNet-56 and ResNet-20, and few images.

4,500 of the 5,000 training images are learned from; the other 500, 50 a class, are what choices are
made on. The two dev sets judge and take part in no choice: 2,000 images as a JPEG copy holds them,
as all training images are, and 200 lossless ones.
"""

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import edgekit
from edgekit.compress.bench import Bench
from edgekit.compress.training.augment import make_augment
from edgekit.core.contract import Contract, InputContract, OutputContract
from edgekit.data.checks import write_checked
from edgekit.data.dataset import TARGET, Dataset
from edgekit.evaluate.metrics import resolve_metric
from edgekit.flow.workbench import make_call

sys.path.append(str(Path(__file__).parents[2] / "examples" / "cifar10"))
from resnet import ResNet  # the example's own definition of the network

CLASSES, SIDE = 10, 32
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
IMAGE = edgekit.Image(height=SIDE, width=SIDE, mean=MEAN, deviation=DEVIATION)
SELECTION_PER_CLASS = 50
# Every arm is trained on pictures that are changed in the same way.
AUGMENT = "flip, crop:4"
WEIGHTS = {20: "resnet20-12fca82f.th", 56: "resnet56-4bfd9763.th"}
SETS = {"jpeg": "cifar10_test_dev2000_jpeg.npz", "lossless": "cifar10_test_dev200_lossless.npz"}
TRAINING = "cifar10_train5000_jpeg.npz"

Samples = tuple[NDArray[np.uint8], NDArray[np.int64]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Learning:
    """What a training sees, on disk, pre-processed."""

    training: Dataset
    selection: Dataset


def data_folder() -> Path:
    """Where the data are: EDGEKIT_DATA, by default the folder beside the checkout."""
    default = Path(__file__).resolve().parents[2] / ".." / "shared" / "data"
    return Path(os.environ.get("EDGEKIT_DATA", default))


def network(layers: int) -> nn.Module:
    """A network of 20 or 56 layers with random weights."""
    return ResNet((layers - 2) // 6)


def published(layers: int) -> nn.Module:
    """The same with its published weights."""
    state = edgekit.load_state(data_folder() / WEIGHTS[layers])
    model = network(layers)
    model.load_state_dict({key.removeprefix("module."): value for key, value in state.items()})
    return model.eval()


def write_learning(folder: Path, *, images: int = 0) -> Learning:
    """The training images in two parts, on disk. images: how many at most; 0 for all."""
    pixels, labels = _read(TRAINING, images)
    is_kept = np.zeros(len(labels), dtype=bool)
    for label in range(CLASSES):
        # A tenth where there are fewer than in the whole set.
        places = np.flatnonzero(labels == label)
        is_kept[places[: min(SELECTION_PER_CLASS, max(1, len(places) // 10))]] = True
    parts = {"training": ~is_kept, "selection": is_kept}
    written = {
        name: write_checked(
            zip(pixels[part], labels[part].tolist(), strict=True),
            {"image": IMAGE},
            folder / name,
            set_name=name,
            needs_target=True,
        ).dataset
        for name, part in parts.items()
    }
    return Learning(**written)


def make_bench(
    model: nn.Module,
    teacher: nn.Module,
    learning: Learning,
    checkpoints: Path,
    *,
    seed: int,
    student: Callable[[], nn.Module] | None = None,
) -> Bench:
    """A bench as a build makes one, of the two public parts that it consists of: data and model."""
    contract = Contract(
        inputs=(
            InputContract(
                name="image", dtype="float32", shape=("batch", 3, SIDE, SIDE), source=IMAGE
            ),
        ),
        outputs=(OutputContract(name="scores", dtype="float32", shape=("batch", CLASSES)),),
    )
    return Bench(
        model=model,
        teacher=teacher.eval().requires_grad_(requires_grad=False),
        contract=contract,
        call=make_call(contract),
        training=learning.training,
        calibration=learning.selection,
        selection=learning.selection,
        metric=resolve_metric("top-1"),
        checkpoints=checkpoints,
        augment=make_augment(AUGMENT, contract),
        student=student,
        seed=seed,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """What a model makes of labelled pictures. confidence: the mean of its largest probability."""

    percent: float
    confidence: float


@torch.no_grad()
def answers(model: nn.Module, pictures: Tensor, labels: Tensor) -> Answers:
    """Top-1 and confidence, computed here and not by edgekit. Shapes: (n, 3, 32, 32), (n,)."""
    shares = torch.cat([model(part).softmax(1) for part in pictures.split(250)])
    confidence, guessed = shares.max(1)
    percent = 100 * float((guessed == labels).double().mean())
    return Answers(percent=percent, confidence=float(confidence.double().mean()))


def dev_pictures(which: str, *, images: int = 0) -> tuple[Tensor, Tensor]:
    """A dev set as the models take it, with its labels. images: how many at most; 0 for all."""
    found, labels = _read(SETS[which], images)
    pixels = torch.from_numpy(found).float().div(255).permute(0, 3, 1, 2)
    ready = (pixels - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(DEVIATION).view(3, 1, 1)
    return ready, torch.from_numpy(labels)


def learned_pictures(learning: Learning) -> tuple[Tensor, Tensor]:
    """The training pictures as they are, not augmented, with their labels."""
    rows = next(iter(learning.training.batches(learning.training.count)))
    return torch.from_numpy(rows["image"]), torch.from_numpy(rows[TARGET]).long()


def _read(name: str, images: int) -> Samples:
    with np.load(data_folder() / name) as archive:
        rows = slice(images or None)
        return archive["images"][rows], archive["labels"][rows].astype(np.int64)
