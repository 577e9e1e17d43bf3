"""A linear layer that multiplies its inputs: the same function, and the same after a disk."""

import copy

import torch
from torch import nn
from torch.nn import functional

from edgekit.compress.multiplied_linear import MultipliedLinear, as_multiplied
from edgekit.compress.state import load_state, save_state

FACTOR = torch.tensor([0.25, 1.0, 64.0, 0.5, 2.0])


def linear(**options):
    torch.manual_seed(0)
    return nn.Linear(5, 3, **options).eval()


def test_powers_of_two_change_no_bit_and_the_weight_makes_up_for_them():
    plain, x = linear(), torch.randn(4, 7, 5)
    multiplied = as_multiplied(copy.deepcopy(plain), FACTOR)
    assert torch.equal(multiplied(x), plain(x))
    assert torch.equal(multiplied.weight, plain.weight / FACTOR)
    assert torch.equal(functional.linear(x * FACTOR, multiplied.weight, plain.bias), plain(x))


def test_it_is_read_back_as_it_was_written(tmp_path):
    for bias in (True, False):
        base = nn.Sequential(linear(bias=bias), nn.ReLU(), nn.Linear(3, 3, bias=bias))
        model, folder = copy.deepcopy(base), tmp_path / str(bias)
        folder.mkdir()
        model[0] = as_multiplied(model[0], FACTOR)
        save_state(model, base, folder)
        loaded = load_state(base, folder).model
        assert type(loaded[0]) is MultipliedLinear
        assert list(loaded.state_dict()) == list(model.state_dict())
        x = torch.randn(2, 5)
        assert torch.equal(loaded(x), base(x))
