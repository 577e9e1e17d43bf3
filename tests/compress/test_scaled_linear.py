"""Linear layers that multiply inputs or outputs: the same function, and the same after a disk."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from edgekit.compress.scaled_linear import (
    MultipliedLinear,
    SpreadLinear,
    as_multiplied,
    as_spread,
)
from edgekit.compress.state import load_state, save_state

INPUTS = torch.tensor([0.25, 1.0, 64.0, 0.5, 2.0])
OUTPUTS = torch.tensor([0.25, 1.0, 64.0])
KINDS = [(as_multiplied, INPUTS, MultipliedLinear), (as_spread, OUTPUTS, SpreadLinear)]


def linear(**options):
    torch.manual_seed(0)
    return nn.Linear(5, 3, **options).eval()


@pytest.mark.parametrize(("scaled", "factor", "kind"), KINDS)
@pytest.mark.parametrize("shape", [(4, 5), (4, 7, 5), (2, 4, 7, 5)])
def test_powers_of_two_change_no_bit(scaled, factor, kind, shape):
    plain, x = linear(), torch.randn(shape)
    assert torch.equal(scaled(copy.deepcopy(plain), factor)(x), plain(x))


def test_weights_make_up_for_what_inputs_are_multiplied_with():
    plain, x = linear(), torch.randn(4, 7, 5)
    made = as_multiplied(copy.deepcopy(plain), INPUTS)
    assert torch.equal(made.weight, plain.weight / INPUTS)
    assert torch.equal(functional.linear(x * INPUTS, made.weight, plain.bias), plain(x))


def test_what_outputs_are_multiplied_with_is_taken_from_weight_and_bias():
    plain, x = linear(), torch.randn(4, 5)
    made = as_spread(copy.deepcopy(plain), OUTPUTS)
    assert torch.equal(made.weight, plain.weight / OUTPUTS[:, None])
    assert torch.equal(made.bias, plain.bias / OUTPUTS)
    assert torch.equal(functional.linear(x, made.weight, made.bias) * OUTPUTS, made(x))


@pytest.mark.parametrize(("scaled", "factor", "kind"), KINDS)
@pytest.mark.parametrize("bias", [True, False])
def test_it_is_read_back_as_it_was_written(tmp_path, scaled, factor, kind, bias):
    base = nn.Sequential(linear(bias=bias), nn.ReLU(), nn.Linear(3, 3, bias=bias))
    model = copy.deepcopy(base)
    model[0] = scaled(model[0], factor)
    save_state(model, base, tmp_path)
    loaded = load_state(base, tmp_path).model
    assert type(loaded[0]) is kind
    assert list(loaded.state_dict()) == list(model.state_dict())
    x = torch.randn(2, 5)
    assert torch.equal(loaded(x), base(x))
