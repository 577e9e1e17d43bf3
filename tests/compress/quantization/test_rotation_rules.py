"""Norms as people write them: each is seen, and rotated with the same outputs in float64."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from tests.compress.quantization.rotated import rotate_stream, unevened

WIDTH = 12
# Rounding of float64; a rotation of one side alone differs by about 1.
EXACT = 1e-12


class _Net(nn.Module):
    """A stream of patches, places and two blocks, with a norm to be tried."""

    def __init__(self, norm, leaves=("weight", "bias")):
        super().__init__()
        self.into = nn.Linear(5, WIDTH)
        self.start = nn.Parameter(torch.randn(1, 1, WIDTH))
        self.register_buffer("places", torch.randn(8, WIDTH))
        for leaf in leaves:
            self.register_parameter(leaf, nn.Parameter(torch.ones(WIDTH)))
        self.norm = norm
        self.up, self.down = nn.Linear(WIDTH, 20), nn.Linear(20, WIDTH)
        self.last = nn.Linear(WIDTH, 3)

    def forward(self, x):
        states = torch.cat([self.start.expand(len(x), -1, -1), self.into(x)], dim=1)
        states = states + self.places[: states.shape[1]]
        inner = functional.gelu(self.up(self.norm(self, states)))
        return self.last(self.norm(self, states + self.down(inner)))


def _llama(net, x):
    return net.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)).to(x.dtype)


def _gemma(net, x):
    normed = x.float() * torch.rsqrt((x * x).mean(-1, keepdim=True) + 1e-6)
    return normed.to(x.dtype) * (1.0 + net.weight)


def _by_root(net, x):
    return x / torch.sqrt(torch.square(x).sum(dim=-1, keepdim=True) / x.shape[-1]) * net.weight


def _by_length(net, x):
    return functional.normalize(x, dim=-1) * net.weight * 3.0


def _by_norm(net, x):
    return net.weight * (x / x.norm(2, dim=-1, keepdim=True))


def _layer_norm_by_hand(net, x):
    middle = x - x.mean(-1, keepdim=True)
    return net.weight * (middle / torch.sqrt(middle.pow(2).mean(-1, keepdim=True))) + net.bias


def _by_spread(net, x):
    return net.weight * (x - x.mean(-1, keepdim=True)) / (x.std(-1, keepdim=True) + 1e-6) + net.bias


def _own(net, x):
    return functional.rms_norm(x, (WIDTH,), net.weight)


def _layer_norm(net, x):
    return functional.layer_norm(x, (WIDTH,), net.weight, net.bias)


def _plain_layer_norm(net, x):
    return functional.layer_norm(x, (WIDTH,))


@pytest.mark.parametrize(
    ("norm", "leaves", "keeps_ones"),
    [
        (_llama, "weight", False),
        (_by_root, "weight", False),
        (_by_length, "weight", False),
        (_by_norm, "weight", False),
        (_own, "weight", False),
        (_layer_norm, "weight bias", True),
        (_plain_layer_norm, "", True),
        (_layer_norm_by_hand, "weight bias", True),
        (_by_spread, "weight bias", True),
    ],
)
def test_a_norm_is_rotated_with_the_same_outputs(norm, leaves, keeps_ones):
    # Both norms of the net share their weight here, which both readers take in.
    net = unevened(_Net(norm, leaves.split())).double()
    value = torch.randn(4, 6, 5, dtype=torch.float64)
    before, after, turned, found = rotate_stream(net, value)
    (stream,) = found.streams
    assert (stream.space.size, stream.space.keeps_ones) == (WIDTH, keeps_ones)
    torch.testing.assert_close(after, before, rtol=EXACT, atol=EXACT)
    assert not torch.allclose(turned.into.weight, net.into.weight, atol=1e-2)
    assert not torch.allclose(turned.places, net.places, atol=1e-2)


def test_gemmas_weight_of_one_more_is_folded():
    net = unevened(_Net(_gemma, ["weight"]))
    before, after, turned, found = rotate_stream(net, torch.randn(4, 6, 5))
    assert len(found.streams) == 1
    # float32 of a net of three layers.
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-5)
    assert turned.weight.eq(0).all()


def _halves(net, x):
    return torch.cat([x[..., :6], x[..., 6:]], dim=-1) * net.weight


@pytest.mark.parametrize(
    ("norm", "why"),
    [
        (lambda net, x: functional.relu(_own(net, x)), "relu reads what weight weighs"),
        (lambda net, x: _own(net, functional.relu(x)), "relu reads it as it is"),
        (lambda net, x: _own(net, x * net.bias), "rms_norm reads what bias weighs"),
        (lambda net, x: _own(net, x) + x, "add reads what weight weighs"),
        (lambda net, x: _own(net, x + torch.arange(WIDTH)), "add reads it as it is"),
        (lambda net, x: _own(net, x) * x.amax(), "amax reads it as it is"),
        (lambda net, x: _own(net, x) / float(x[0, 0, 0].item()), "__getitem__ reads it as it is"),
        (lambda net, x: _own(net, x.roll(1, -1)), "roll reads it as it is"),
        (lambda net, x: _halves(net, _own(net, x)), "__getitem__ reads what weight weighs"),
        (lambda net, x: _own(net, functional.dropout(x, 1e-9)), "dropout reads it as it is"),
        (lambda net, x: _own(net, x) * x.pow(3).mean(-1, keepdim=True), "pow reads it as it is"),
    ],
)
def test_what_is_no_such_norm_ends_the_matter_with_its_name(norm, why):
    net = unevened(_Net(norm)).double()
    before, after, _, found = rotate_stream(net, torch.randn(4, 6, 5, dtype=torch.float64))
    assert found.streams == ()
    assert any(why in reason for reason in found.left.values()), found.left
    assert torch.equal(before, after)
