"""Fashion-MNIST, and the ResNet-20 that ``teacher.py`` trains on it."""

import os
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn

import edgekit

TEACHER = Path(__file__).with_name("teacher.safetensors")
# Of the 60,000 training images, what choices are made on (early stopping, how far to prune).
SELECTION = 2_000
CALIBRATION = 500
# Of the training images, in 0..1.
MEAN, DEVIATION = 0.28604, 0.35302
LABELS = ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag",
          "ankle boot")  # fmt: skip

Samples = tuple[NDArray[np.uint8], NDArray[np.int64]]


class Block(nn.Module):
    """Two convolutions and a shortcut, which is a projection where the shape changes."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels != width:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels, width, 1, stride=stride, bias=False), nn.BatchNorm2d(width)
            )

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, h, w) -> (batch, width, h / stride, w / stride)."""
        hidden = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(hidden)) + self.shortcut(x))


class ResNet(nn.Module):
    """The CIFAR ResNet of He et al. 2016 (arXiv 1512.03385) for one channel: 6n + 2 layers."""

    def __init__(self, blocks: int = 3, widths: tuple[int, ...] = (16, 32, 64)) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(1, widths[0], 3, padding=1, bias=False), nn.BatchNorm2d(widths[0]), nn.ReLU()
        )
        layers: list[nn.Module] = []
        channels = widths[0]
        for stage, width in enumerate(widths):
            for block in range(blocks):
                stride = 2 if stage and not block else 1
                layers.append(Block(channels, width, stride))
                channels = width
        self.blocks = nn.Sequential(*layers)
        self.classifier = nn.Linear(channels, 10)

    def forward(self, image: Tensor) -> Tensor:
        """Images (batch, 1, 28, 28), normalized, to one score a class (batch, 10)."""
        return self.classifier(self.blocks(self.stem(image)).mean((2, 3)))


def image_input() -> edgekit.Image:
    """How pixels become the input."""
    return edgekit.Image(height=28, width=28, channels=1, mean=(MEAN,), deviation=(DEVIATION,))


def data_folder() -> Path:
    """Where the data are: EDGEKIT_DATA, by default the folder beside the checkout."""
    default = Path(__file__).resolve().parents[2] / ".." / "shared" / "data"
    return Path(os.environ.get("EDGEKIT_DATA", default))


def training_images(folder: Path | None = None) -> Samples:
    """58,000 images for training. folder: of the data; None takes ``data_folder()``."""
    images, labels = _read("fashion_mnist_train.npz", folder)
    return images[SELECTION:], labels[SELECTION:]


def selection_images(folder: Path | None = None) -> Samples:
    """2,000 of the training images, kept apart."""
    images, labels = _read("fashion_mnist_train.npz", folder)
    return images[:SELECTION], labels[:SELECTION]


def evaluation_images(folder: Path | None = None) -> Samples:
    """The 5,000 dev images, 500 a class."""
    return _read("fashion_mnist_test_dev5000.npz", folder)


def pairs(samples: Samples) -> list[tuple[NDArray[np.uint8], int]]:
    """Image and label, one by one."""
    return [(image, int(label)) for image, label in zip(*samples, strict=True)]


def teacher() -> nn.Module:
    """The ResNet-20 with the weights that ``teacher.py`` trained."""
    model = ResNet()
    model.load_state_dict(load_file(TEACHER))
    return model.eval()


def _read(name: str, folder: Path | None) -> Samples:
    with np.load((folder or data_folder()) / name) as archive:
        return archive["images"], archive["labels"].astype(np.int64)
