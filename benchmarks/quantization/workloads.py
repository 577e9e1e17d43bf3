"""What this benchmark builds beside the examples: the same with data to learn from, and two nets.

edgekit build benchmarks/quantization/workloads.py:resnet20 --device phone
"""

import importlib.util
import os
import sys
import tempfile
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

import edgekit
from edgekit.compress.training.finetune import fit_model
from edgekit.core.steps.train import Train

ROOT = Path(__file__).resolve().parents[2]
TRAINING = "cifar10_train5000_jpeg.npz"
# The last of each class are what choices are made on.
SELECTION_PER_CLASS, CLASSES = 50, 10
FASHION_TRAINING, FASHION_EVALUATION = "fashion_mnist_train.npz", "fashion_mnist_test_dev5000.npz"
FASHION_LEARNED, FASHION_CALIBRATION, FASHION_JUDGED = 20_000, 200, 3_000
EPOCHS, BATCH, RATE = 4, 128, 3e-3
TUNING = Train(epochs=6, optimizer="sgd", learning_rate=0.004)
WORK = Path(os.environ.get("EDGEKIT_BENCHMARK_WORK", Path(__file__).parent / ".work"))
# Powers of ten that channels are scaled apart by.
DECADES = 3.0


def data_folder() -> Path:
    """Where the data are: EDGEKIT_DATA, by default the folder beside the checkout."""
    return Path(os.environ.get("EDGEKIT_DATA", ROOT / ".." / "shared" / "data")).resolve()


def resnet20(images: str = "cifar10_test_dev2000_jpeg.npz", tuned: str = "no") -> edgekit.Workload:
    """ResNet-20 with 4,500 images to learn from and 500 to choose on.

    tuned: "yes" is the net after six epochs of them, in float.
    """
    workload = _with_training(_example("cifar10").resnet20(str(data_folder()), images))
    return _tuned(workload) if tuned == "yes" else workload


def resnet56(images: str = "cifar10_test_dev2000_jpeg.npz", tuned: str = "no") -> edgekit.Workload:
    """ResNet-56 with the same."""
    workload = _with_training(_example("cifar10").resnet56(str(data_folder()), images))
    return _tuned(workload) if tuned == "yes" else workload


def _tuned(workload: edgekit.Workload) -> edgekit.Workload:
    """The weights are in a file, which is made where it is missing."""
    path = WORK / f"{workload.name}-tuned.pt"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="edgekit-benchmark-") as folder:
            fit_model(
                workload.model,
                workload.inputs,
                training=workload.training,
                selection=workload.selection,
                folder=Path(folder),
                settings=TUNING,
                augment=workload.augment,
            )
        torch.save(workload.model.state_dict(), path)
    workload.model.load_state_dict(torch.load(path, weights_only=True))
    return workload


def _with_training(workload: edgekit.Workload) -> edgekit.Workload:
    samples = list(_example("cifar10").samples(data_folder() / TRAINING))
    kept = dict.fromkeys(range(CLASSES), 0)
    selection, training = [], []
    for pixels, label in samples:
        kept[int(label)] += 1
        is_chosen = kept[int(label)] <= SELECTION_PER_CLASS
        (selection if is_chosen else training).append((pixels, label))
    return replace(
        workload,
        calibration=[pixels for pixels, _ in training[:500]],
        training=training,
        selection=selection,
        augment="flip, crop:4",
    )


def mobile(scaled: str = "no", weights: str = "") -> edgekit.Workload:
    """Inverted bottlenecks on Fashion-MNIST. scaled: "yes" scales depthwise channels apart.

    weights: a file of trained ones, made where it is missing.
    """
    path = Path(weights or WORK / "mobile.pt")
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(_trained().state_dict(), path)
    model = Mobile()
    model.load_state_dict(torch.load(path, weights_only=True))
    model.eval()
    if scaled == "yes":
        scale_apart(model)
    pictures, labels = _fashion(FASHION_EVALUATION)
    learned, _ = _fashion(FASHION_TRAINING)
    return edgekit.Workload(
        name="mobile",
        model=model,
        inputs={
            "image": edgekit.Image(height=28, width=28, channels=1, mean=(0.0,), deviation=(1.0,))
        },
        outputs={"scores": edgekit.Output()},
        calibration=list(learned[-FASHION_CALIBRATION:]),
        evaluation=list(zip(pictures, labels, strict=True))[:FASHION_JUDGED],
        metric="top-1",
    )


class Bottleneck(nn.Module):
    """Widen, filter each channel by itself, narrow. Shapes: (n, i, h, w) -> (n, o, h/s, w/s)."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1, factor: int = 4) -> None:
        super().__init__()
        wide = factor * inputs
        self.expand = _block(inputs, wide, 1)
        self.depthwise = _block(wide, wide, 3, stride, wide)
        self.project = nn.Sequential(
            nn.Conv2d(wide, outputs, 1, bias=False), nn.BatchNorm2d(outputs)
        )
        self.is_residual = stride == 1 and inputs == outputs

    def forward(self, given: Tensor) -> Tensor:
        """What is added to the input where it has the same shape."""
        made = self.project(self.depthwise(self.expand(given)))
        return given + made if self.is_residual else made


class Mobile(nn.Module):
    """Five bottlenecks, 33,274 parameters. Shapes: image (n, 1, 28, 28) -> (n, 10)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = _block(1, 16, 3, 2)
        sizes = ((16, 16, 1), (16, 24, 2), (24, 24, 1), (24, 32, 2), (32, 32, 1))
        self.body = nn.Sequential(*(Bottleneck(*item) for item in sizes))
        self.head = _block(32, 96, 1)
        self.classifier = nn.Linear(96, CLASSES)

    def forward(self, image: Tensor) -> Tensor:
        """Scores of the ten classes."""
        return self.classifier(self.head(self.body(self.stem(image))).mean((2, 3)))


def _block(inputs: int, outputs: int, size: int, stride: int = 1, groups: int = 1) -> nn.Module:
    conv = nn.Conv2d(inputs, outputs, size, stride, size // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU())


@torch.no_grad()
def scale_apart(model: Mobile, decades: float = DECADES, seed: int = 0) -> None:
    """Scale channels up and what reads them down, at random; the outputs stay the same."""
    generator = torch.Generator().manual_seed(seed)
    for block in model.body:
        readers = (block.expand[1], block.depthwise[0]), (block.depthwise[1], block.project[0])
        for norm, reader in readers:
            powers = torch.rand(norm.num_features, generator=generator) - 0.5
            scale = 10 ** (powers * decades)
            norm.weight *= scale
            norm.bias *= scale
            weight = reader.weight
            weight /= scale.view((-1, 1, 1, 1) if reader.groups > 1 else (1, -1, 1, 1))


def _trained() -> Mobile:
    """The net after four epochs on 20,000 images, from one seed."""
    pictures, labels = _fashion(FASHION_TRAINING)
    images = torch.from_numpy(pictures[:FASHION_LEARNED, None]).float().div(255)
    targets = torch.from_numpy(labels[:FASHION_LEARNED])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Mobile()
        optimizer = torch.optim.AdamW(model.parameters(), RATE, weight_decay=1e-3)
        batches = len(images) // BATCH
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, EPOCHS * batches)
        for _ in range(EPOCHS):
            model.train()
            order = torch.randperm(len(images))
            for part in order[: batches * BATCH].split(BATCH):
                loss = functional.cross_entropy(model(images[part]), targets[part])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
    return model.eval()


def _fashion(name: str) -> tuple[NDArray, NDArray]:
    with np.load(data_folder() / name) as archive:
        return archive["images"], archive["labels"].astype(np.int64)


@cache
def _example(name: str) -> ModuleType:
    """An example's workload.py, under a name of its own."""
    path = ROOT / "examples" / name / "workload.py"
    sys.path.insert(0, str(path.parent))
    spec = importlib.util.spec_from_file_location(f"quantization_{name}", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} cannot be imported")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module.__name__] = module
    spec.loader.exec_module(module)
    return module
