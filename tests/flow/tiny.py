"""A network that is trained in a second on four kinds of picture, and workloads around it."""

from functools import cache

import numpy as np
import torch
from torch import nn

import edgekit

SHAPE = (1, 12, 12)
LABELS = ("ant", "bee", "cat", "dog")


class Network(nn.Module):
    """Three convolutions and two heads; ``second`` and ``third`` have weights of one shape."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(1, 16, 3, padding=1, stride=2)
        self.second = nn.Conv2d(16, 16, 3, padding=1)
        self.third = nn.Conv2d(16, 16, 3, padding=1)
        self.scores = nn.Linear(16, 4)
        self.other = nn.Linear(16, 4)

    def forward(self, image):
        hidden = torch.relu(self.first(image))
        hidden = torch.relu(self.third(torch.relu(self.second(hidden))))
        hidden = hidden.mean((2, 3))
        return self.scores(hidden), self.other(hidden)


class OnlyScores(nn.Module):
    """The same network with one output."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, image):
        return self.network(image)[0]


def pictures(count, seed):
    """Noise with one quarter lit, and which quarter that is."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 4, count)
    images = generator.standard_normal((count, *SHAPE)).astype(np.float32) * 0.2
    for image, label in zip(images, labels, strict=True):
        row, column = divmod(int(label), 2)
        image[0, 6 * row : 6 * row + 6, 6 * column : 6 * column + 6] += 2.0
    return images, labels


def samples(count, seed):
    """Pairs of picture and label."""
    return list(zip(*pictures(count, seed), strict=True))


@cache
@torch.enable_grad()  # whoever asks first
def network():
    """The trained network, with two outputs; the same weights on every call of one machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    module = Network()
    images, labels = (torch.from_numpy(part) for part in pictures(512, 0))
    optimizer = torch.optim.Adam(module.parameters(), 0.01)
    for start in range(0, 60 * 64, 64):
        rows = slice(start % 512, start % 512 + 64)
        loss = nn.functional.cross_entropy(module(images[rows])[0], labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    torch.set_num_threads(threads)
    return module.eval()


def workload(**changes):
    """One picture in, scores out; 800 samples put no lost sample inside half a point."""
    given = {
        "name": "tiny",
        "model": OnlyScores(network()).eval(),
        "inputs": {"image": edgekit.Tensor(shape=SHAPE)},
        "outputs": {"scores": edgekit.Output(labels=LABELS)},
        "calibration": [image for image, _ in samples(32, 1)],
        "evaluation": samples(800, 2),
    }
    return edgekit.Workload(**{**given, **changes})


def workload_of_two(**changes):
    """The same with both heads as outputs, of which the metric takes one."""
    outputs = {"scores": edgekit.Output(labels=LABELS), "other": edgekit.Output()}
    given = {"name": "tiny-of-two", "model": network(), "metric": "top-1:scores"}
    return workload(**{**given, "outputs": outputs, **changes})
