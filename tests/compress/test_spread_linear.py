"""A linear layer that multiplies its outputs: the same bits, and the same after a disk."""

import copy

import torch
from torch import nn
from torch.nn import functional

from edgekit.compress.spread_linear import SpreadLinear, as_spread
from edgekit.compress.state import load_state, save_state

SCALE = torch.tensor([0.25, 1.0, 64.0])


def linear(**options):
    torch.manual_seed(0)
    return nn.Linear(5, 3, **options).eval()


def test_powers_of_two_change_no_bit():
    plain, x = linear(), torch.randn(4, 7, 5)
    spread = as_spread(copy.deepcopy(plain), SCALE)
    assert torch.equal(spread(x), plain(x))
    torch.testing.assert_close(spread.weight, plain.weight / SCALE[:, None], rtol=0, atol=0)
    torch.testing.assert_close(spread.bias, plain.bias / SCALE, rtol=0, atol=0)


def test_what_is_multiplied_is_even():
    spread = as_spread(linear(bias=False), SCALE)
    x = torch.randn(4, 5)
    assert torch.equal(functional.linear(x, spread.weight) * SCALE, spread(x))


def test_it_is_read_back_as_it_was_written(tmp_path):
    for bias in (True, False):
        base = nn.Sequential(linear(bias=bias), nn.ReLU(), linear(bias=bias))
        base[2] = nn.Linear(3, 3, bias=bias)
        model, folder = copy.deepcopy(base), tmp_path / str(bias)
        folder.mkdir()
        model[2] = as_spread(model[2], SCALE)
        save_state(model, base, folder)
        loaded = load_state(base, folder).model
        assert type(loaded[2]) is SpreadLinear
        assert list(loaded.state_dict()) == list(model.state_dict())
        x = torch.randn(2, 5)
        assert torch.equal(loaded(x), base(x))
