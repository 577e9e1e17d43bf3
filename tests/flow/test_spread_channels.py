"""A post-norm transformer with a channel of outliers: static INT8 with and without "spread"."""

from functools import cache

import pytest
import torch
from torch import nn
from torch.nn import functional

import edgekit
from tests.compress.benches import Attention
from tests.flow import tiny
from tests.flow.outlier_builds import built, drop_of

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


@pytest.mark.slow
@pytest.mark.parametrize(("target", "at_most"), [("litert", 0.3), ("onnx", 1.2)])
def test_one_scale_holds_what_was_spread(builds, tmp_path, target, at_most):
    given = {"name": "post-norm", "model": model()}
    plain = built(builds, tmp_path / "plain", target, **given)
    spread = built(builds, tmp_path / "spread", target, ("spread", "{}"), **given)
    print(target, "static", drop_of(plain), drop_of(spread))
    assert drop_of(spread) < at_most * drop_of(plain)


@pytest.mark.slow
def test_debug_names_spread_and_has_nothing_to_say_after_it(builds, tmp_path):
    given = {"name": "post-norm", "model": model()}
    plain = edgekit.debug(built(builds, tmp_path / "plain", "litert", **given).bundle)
    assert plain.wrong is not None
    assert any("'spread'" in mend.remedy and "ffn_out'" in mend.evidence for mend in plain.mends)
    spread = built(builds, tmp_path / "spread", "litert", ("spread", "{}"), **given)
    assert edgekit.debug(spread.bundle).mends == ()
