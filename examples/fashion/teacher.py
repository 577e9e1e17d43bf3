"""Train the teacher of this example: a ResNet-20 (272,186 parameters) on Fashion-MNIST.

    EDGEKIT_DATA=FOLDER python examples/fashion/teacher.py [--epochs N] [--work FOLDER]

About 3 minutes an epoch on two idle cores. A run that was stopped goes on where it was. Writes
``teacher.safetensors`` beside this file; prints its sha256 and its top-1 on the 5,000 dev images.
"""

import argparse
import hashlib
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from fashion import (
    DEVIATION,
    MEAN,
    TEACHER,
    ResNet,
    evaluation_images,
    image_input,
    pairs,
    selection_images,
    training_images,
)
from safetensors.torch import save_file

from edgekit.compress.training.finetune import fit_model
from edgekit.core.progress import Event
from edgekit.core.steps import Train


def main() -> int:
    """Train, write, judge."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument(
        "--work", type=Path, default=Path(tempfile.gettempdir()) / "edgekit-fashion-teacher"
    )
    chosen = parser.parse_args()
    chosen.work.mkdir(exist_ok=True)
    torch.manual_seed(0)
    model = ResNet()
    fit_model(
        model,
        {"image": image_input()},
        training=pairs(training_images()),
        selection=pairs(selection_images()),
        folder=chosen.work,
        settings=Train(
            epochs=chosen.epochs,
            optimizer="sgd",
            learning_rate=0.1,
            weight_decay=5e-4,
            warmup_ratio=0.1,
        ),
        augment="flip, crop:2",
        listener=_say,
    )
    state = {name: value.contiguous() for name, value in model.state_dict().items()}
    save_file(state, TEACHER)
    digest = hashlib.sha256(TEACHER.read_bytes()).hexdigest()
    print(f"{TEACHER.name}: sha256 {digest}; top-1 {top_1(model):.2%} on the 5,000 dev images")
    return 0


@torch.no_grad()
def top_1(model: torch.nn.Module) -> float:
    """Share of the dev images that the model gets right, computed here by hand."""
    images, labels = evaluation_images()
    ready = (torch.from_numpy(images).float().div(255).unsqueeze(1) - MEAN) / DEVIATION
    found = torch.cat([model(part).argmax(1) for part in ready.split(500)])
    return float(np.mean(found.numpy() == labels))


def _say(event: Event) -> None:
    print(f"{event.message}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
