"""Pretrained ResNet-20 and ResNet-56 on CIFAR-10.

    edgekit build examples/cifar10/workload.py:resnet20 --device phone --arg data=FOLDER

FOLDER holds the checkpoints (akamaster/pytorch_resnet_cifar10, BSD-2-Clause) and the images as
npz files with arrays of uint8 pixels (N, 32, 32, 3) and labels; see README.md beside this file.
"""

import os
from pathlib import Path

import numpy as np
from resnet import ResNet

import edgekit

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
CALIBRATION_IMAGES = 500
DEFAULT_DATA = os.environ.get("EDGEKIT_DATA", "../shared/data")


def resnet20(data: str = DEFAULT_DATA, images: str = "cifar10_test_dev2000_jpeg.npz"):
    return make_workload("resnet20", 3, "resnet20-12fca82f.th", Path(data), images)


def resnet56(data: str = DEFAULT_DATA, images: str = "cifar10_test_dev2000_jpeg.npz"):
    return make_workload("resnet56", 9, "resnet56-4bfd9763.th", Path(data), images)


def make_workload(name: str, blocks: int, checkpoint: str, data: Path, images: str):
    return edgekit.Workload(
        name=name,
        model=load_model(data / checkpoint, blocks),
        inputs={
            "image": edgekit.Image(
                height=32,
                width=32,
                mean=(0.485, 0.456, 0.406),
                deviation=(0.229, 0.224, 0.225),
            )
        },
        outputs={"scores": edgekit.Output(labels=CLASSES, activation="softmax")},
        calibration=list(samples(data / "cifar10_train5000_jpeg.npz"))[:CALIBRATION_IMAGES],
        evaluation=samples(data / images),
        metric="top-1",
        license="BSD-2-Clause",
        description="CIFAR-10 classifier, 32x32 pictures, ten classes.",
    )


def load_model(checkpoint: Path, blocks: int) -> ResNet:
    """The published weights in our own definition of the network."""
    state = edgekit.load_state(checkpoint)
    model = ResNet(blocks)
    model.load_state_dict({key.removeprefix("module."): value for key, value in state.items()})
    return model.eval()


def samples(path: Path):
    """Raw pictures with labels, one by one; edgekit prepares them as the input declares."""
    with np.load(path) as arrays:
        pixels, labels = arrays["images"], arrays["labels"]
    yield from zip(pixels, labels, strict=True)
