"""Outliers in a transformer's activations: smoothed for INT8, scaled for INT4, on both targets."""

from functools import cache

import pytest
import torch
from torch import nn

from tests.compress.benches import Layer
from tests.compress.quantization.outliers import with_outliers
from tests.flow import tiny
from tests.flow.outlier_builds import INT4, built, drop_of

WIDTH, ROWS = 32, tiny.SHAPE[1]


class Transformer(nn.Module):
    """Reads the rows of a picture as tokens."""

    def __init__(self):
        super().__init__()
        self.tokens = nn.Linear(ROWS, WIDTH)
        self.places = nn.Parameter(torch.randn(ROWS, WIDTH) * 0.5)
        self.layers = nn.ModuleList(Layer(WIDTH, 4, 0.0) for _ in range(2))
        self.norm, self.scores = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 4)

    def forward(self, image):
        tokens = self.tokens(image.flatten(1, 2)) + self.places
        for layer in self.layers:
            tokens = layer(tokens)
        return self.scores(self.norm(tokens).mean(1))


@cache
@torch.enable_grad()
def transformer():
    """A trained one with outliers a thousand times larger than the rest of the activations."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    module = Transformer()
    images, labels = (torch.from_numpy(part) for part in tiny.pictures(512, 0))
    optimizer = torch.optim.Adam(module.parameters(), 0.003)
    for start in range(0, 80 * 64, 64):
        rows = slice(start % 512, start % 512 + 64)
        loss = nn.functional.cross_entropy(module(images[rows]), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    torch.set_num_threads(threads)
    outlying = with_outliers(module.eval(), 1000.0)
    with torch.no_grad():
        scales = torch.ones(WIDTH)
        scales[::8] = 1000.0
        outlying.norm.weight.mul_(scales)
        outlying.norm.bias.mul_(scales)
        outlying.scores.weight.div_(scales)
    return outlying


@pytest.mark.slow
@pytest.mark.parametrize("target", ["litert", "onnx"])
def test_static_integers_hold_what_was_smoothed(builds, tmp_path, target):
    given = {"name": "outliers", "model": transformer()}
    plain = built(builds, tmp_path / "plain", target, **given)
    smoothed = built(builds, tmp_path / "smooth", target, ("smooth", "{}"), **given)
    print(target, "static", drop_of(plain), drop_of(smoothed))
    assert drop_of(smoothed) < 0.1 * drop_of(plain)


@pytest.mark.slow
@pytest.mark.parametrize("target", ["litert", "onnx"])
def test_weights_behind_outliers_survive_4_bits(builds, tmp_path, target):
    given = {"name": "outliers", "model": transformer(), "quantize": INT4}
    plain = built(builds, tmp_path / "plain", target, **given)
    scaled = built(builds, tmp_path / "awq", target, ("awq", "{}"), **given)
    print(target, "int4", drop_of(plain), drop_of(scaled))
    assert drop_of(scaled) < 0.1 * drop_of(plain)
