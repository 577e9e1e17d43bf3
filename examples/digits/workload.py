"""Handwritten digits: a workload for edgekit that builds as it stands.

    edgekit build workload.py --device phone

To make it yours: put your trained model in place of `trained_model()` and your data in place of
`digits()`; then say in `workload()` what goes in, what comes out and how well is well enough.
"""

from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn

import edgekit

WEIGHTS = Path(__file__).with_name("digits.pt")


def workload() -> edgekit.Workload:
    """What edgekit builds: a model, what goes in and comes out, and the data that judge it."""
    pixels, labels = digits()
    return edgekit.Workload(
        name="digits",
        description="Reads one handwritten digit of 8 by 8 pixels.",
        license="CC BY 4.0 (data: UCI Optical Recognition of Handwritten Digits)",
        model=trained_model(),
        # How raw pixels become the model's input, as data: (pixels * scale - mean) / deviation.
        inputs={"image": edgekit.Image(height=8, width=8, channels=1)},
        outputs={"digit": edgekit.Output(labels=tuple("0123456789"), activation="softmax")},
        # Three sets that share no sample: one trained the model, one shows the quantizer what
        # values to expect, one gives the verdict. A sample is x, or (x, y).
        calibration=pixels[700:850],
        evaluation=zip(pixels[850:], labels[850:], strict=True),
        metric="top-1",
    )


class DigitNet(nn.Module):
    """Three convolutions and a linear layer: 59,000 parameters, 1.8 million multiplications."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 32, 3, padding=1),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.Conv2d(32, 64, 3, padding=1),
            nn.BatchNorm2d(64),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(64, 64, 3, padding=1),
            nn.BatchNorm2d(64),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        self.classifier = nn.Linear(64 * 2 * 2, 10)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Images (batch, 1, 8, 8) in 0..1 to one score a digit (batch, 10)."""
        return self.classifier(self.features(image).flatten(1))


def digits() -> tuple[np.ndarray, np.ndarray]:
    """1,797 images of 8 by 8 pixels in 0..255, in a fixed random order, and their digits."""
    data = load_digits()
    order = np.random.default_rng(0).permutation(len(data.target))
    pixels = (data.images[order] * 255 / 16).round().astype(np.uint8)
    return pixels, data.target[order]


def trained_model() -> nn.Module:
    """The model with its weights, trained in seconds the first time and kept beside this file."""
    torch.manual_seed(0)
    model = DigitNet()
    if not WEIGHTS.exists():
        train(model)
        partial = WEIGHTS.with_suffix(".partial")
        torch.save(model.state_dict(), partial)
        partial.replace(WEIGHTS)
    model.load_state_dict(torch.load(WEIGHTS, weights_only=True))
    return model.eval()


def train(model: nn.Module, epochs: int = 30) -> None:
    """Plain training on the first 700 samples; edgekit never sees it."""
    pixels, labels = digits()
    images = torch.from_numpy(pixels[:700]).float().div(255).unsqueeze(1)
    targets = torch.from_numpy(labels[:700])
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    for _ in range(epochs):
        for batch in torch.randperm(700).split(50):
            loss = nn.functional.cross_entropy(model(images[batch]), targets[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        schedule.step()
