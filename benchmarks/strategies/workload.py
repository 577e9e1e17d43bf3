"""The teacher on Fashion-MNIST as a workload: what every cell of this benchmark builds from.

EDGEKIT_DATA=FOLDER edgekit build benchmarks/strategies/workload.py --device phone --effort standard
"""

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


def workload() -> edgekit.Workload:
    """ResNet-20, 58,000 images to learn from, 2,000 to choose on, 5,000 to be judged on."""
    images, _ = training_images()
    return edgekit.Workload(
        name="fashion-resnet20",
        description="One of ten pieces of clothing in 28 by 28 grey pixels.",
        license="MIT (data: Fashion-MNIST, Zalando)",
        model=teacher(),
        inputs={"image": image_input()},
        outputs={"scores": edgekit.Output(labels=LABELS, activation="softmax")},
        calibration=images[:CALIBRATION],
        selection=pairs(selection_images()),
        evaluation=pairs(evaluation_images()),
        training=pairs(training_images()),
        augment="flip, crop:2",
        metric="top-1",
    )
