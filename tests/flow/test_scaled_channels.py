"""Outliers in a transformer's activations: smoothed for INT8, scaled for INT4, on both targets."""

from functools import cache
from pathlib import Path

import pytest
import torch
from torch import nn

import edgekit
from tests.compress.benches import Layer
from tests.compress.quantization.outliers import with_outliers
from tests.flow import tiny
from tests.flow.test_compressing import build, profile

WIDTH, ROWS = 32, tiny.SHAPE[1]
STATIC = 'precision = "int8", activations = "static"'
INT4 = 'precision = "int4", activations = "none", keep_first_last_int8 = false'


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


def device(folder, *steps, settings):
    path = Path(profile(folder, *steps))
    text = path.read_text()
    path.write_text(text.replace('precision = "int8" }', f"{settings} }}"))
    return str(path)


def drop_of(result):
    return {item.name: item for item in result.evidence.figures}["metric_drop"].value


def built(builds, folder, target, *steps, settings):
    folder.mkdir()
    given = tiny.workload(
        name="outliers",
        model=transformer(),
        outputs={"scores": edgekit.Output()},
        calibration=[x for x, _ in tiny.samples(128, 1)],
        evaluation=[x for x, _ in tiny.samples(200, 2)],
        metric="cosine",
    )
    wide = {"metric_drop": 100.0, "latency_ratio": 1000.0}
    path = device(folder, *steps, settings=settings)
    return build(builds, path, given, target=target, effort="quick", limits=wide)


@pytest.mark.slow
@pytest.mark.parametrize("target", ["litert", "onnx"])
def test_static_integers_hold_what_was_smoothed(builds, tmp_path, target):
    plain = built(builds, tmp_path / "plain", target, settings=STATIC)
    smoothed = built(builds, tmp_path / "smooth", target, ("smooth", "{}"), settings=STATIC)
    print(target, "static", drop_of(plain), drop_of(smoothed))
    assert drop_of(smoothed) < 0.1 * drop_of(plain)


@pytest.mark.slow
@pytest.mark.parametrize("target", ["litert", "onnx"])
def test_weights_behind_outliers_survive_4_bits(builds, tmp_path, target):
    plain = built(builds, tmp_path / "plain", target, settings=INT4)
    scaled = built(builds, tmp_path / "awq", target, ("awq", "{}"), settings=INT4)
    print(target, "int4", drop_of(plain), drop_of(scaled))
    assert drop_of(scaled) < 0.1 * drop_of(plain)
