"""A ResNet-20 for Fashion-MNIST that is trained further while it is made smaller.

    edgekit build examples/fashion/workload.py --device phone --effort standard --arg data=FOLDER

FOLDER holds the images as npz files with arrays of uint8 pixels (N, 28, 28) and labels; see
README.md beside this file. benchmarks/strategies builds it for every profile.
"""

import os
from pathlib import Path

from fashion import (
    CALIBRATION,
    LABELS,
    evaluation_images,
    image_input,
    pairs,
    selection_images,
    teacher,
    training_images,
)

import edgekit

DEFAULT_DATA = os.environ.get("EDGEKIT_DATA", "../shared/data")


def workload(data: str = DEFAULT_DATA, training: str = "58000", evaluation: str = "5000"):
    """training, evaluation: how many of the images to learn from, and to be judged on."""
    folder = Path(data)
    learned = pairs(training_images(folder))[: int(training)]
    return edgekit.Workload(
        name="fashion",
        description="One of ten pieces of clothing in 28 by 28 grey pixels.",
        license="MIT (data: Fashion-MNIST, Zalando)",
        model=teacher(),
        inputs={"image": image_input()},
        outputs={"scores": edgekit.Output(labels=LABELS, activation="softmax")},
        # What a step trains on; augmented anew in every epoch.
        training=learned,
        augment="flip, crop:2",
        # Choices (when to stop, how far to prune) are made on these, and on nothing below.
        selection=pairs(selection_images(folder)),
        calibration=[image for image, _ in learned[:CALIBRATION]],
        evaluation=pairs(evaluation_images(folder))[: int(evaluation)],
        metric="top-1",
    )
