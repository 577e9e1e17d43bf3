"""A post-norm transformer with a channel of outliers: static INT8 with and without "spread"."""

from functools import cache

import pytest
import torch
from torch import nn
from torch.nn import functional

import edgekit
from tests.compress.benches import Attention
from tests.flow import tiny
from tests.flow.test_compressing import build
from tests.flow.test_scaled_channels import STATIC, device, drop_of

WIDTH, ROWS = 32, tiny.SHAPE[1]
TIMES = 200.0


class Layer(nn.Module):
    """Attention and a feed-forward part, normalized after their sums, as in BERT."""

    def __init__(self):
        super().__init__()
        self.attention, self.attention_norm = Attention(WIDTH, 4), nn.LayerNorm(WIDTH)
        self.ffn_in, self.ffn_out = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)
        self.ffn_norm = nn.LayerNorm(WIDTH)

    def forward(self, tokens):
        tokens = self.attention_norm(tokens + self.attention(tokens))
        return self.ffn_norm(tokens + self.ffn_out(functional.gelu(self.ffn_in(tokens))))


class PostNorm(nn.Module):
    """Reads the rows of a picture as tokens."""

    def __init__(self):
        super().__init__()
        self.tokens = nn.Linear(ROWS, WIDTH)
        self.places = nn.Parameter(torch.randn(ROWS, WIDTH) * 0.5)
        self.layers = nn.ModuleList(Layer() for _ in range(2))
        self.scores = nn.Linear(WIDTH, 4)
        with torch.no_grad():
            for layer in self.layers:
                # Now and then, so that the norm leaves the other channels something.
                layer.ffn_out.weight[5] *= TIMES
                layer.ffn_out.bias[5] = 0.0
                layer.ffn_norm.weight[5] /= TIMES

    def forward(self, image):
        tokens = self.tokens(image.flatten(1, 2)) + self.places
        for layer in self.layers:
            tokens = layer(tokens)
        return self.scores(tokens.mean(1))


@cache
def model():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return PostNorm().eval()


def built(builds, folder, target, *steps):
    folder.mkdir()
    given = tiny.workload(
        name="post-norm",
        model=model(),
        outputs={"scores": edgekit.Output()},
        calibration=[x for x, _ in tiny.samples(128, 1)],
        evaluation=[x for x, _ in tiny.samples(200, 2)],
        metric="cosine",
    )
    wide = {"metric_drop": 100.0, "latency_ratio": 1000.0}
    path = device(folder, *steps, settings=STATIC)
    return build(builds, path, given, target=target, effort="quick", limits=wide)


@pytest.mark.slow
@pytest.mark.parametrize(("target", "at_most"), [("litert", 0.3), ("onnx", 1.2)])
def test_one_scale_holds_what_was_spread(builds, tmp_path, target, at_most):
    plain = built(builds, tmp_path / "plain", target)
    spread = built(builds, tmp_path / "spread", target, ("spread", "{}"))
    print(target, "static", drop_of(plain), drop_of(spread))
    assert drop_of(spread) < at_most * drop_of(plain)
