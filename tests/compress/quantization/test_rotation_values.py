"""Values of attention: rotated head by head with the same outputs, or left with the reason."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from tests.compress.architectures import ALL, TRANSFORMERS
from tests.compress.quantization.rotated import llama, rotate_heads, unevened
from tests.compress.quantization.test_rotation_stream import ids, is_same

HEADS = {"grouped queries, two keys": 2}


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_every_attention_gives_the_same_outputs_with_its_values_rotated(name):
    model = unevened(ALL[name].model())
    before, after, _, found = rotate_heads(model, ALL[name].inputs())
    assert found.givers
    assert found.left == {}
    assert {len(giver.free) for giver in found.givers} == {HEADS.get(name, 4)}
    assert is_same(after, before)


@pytest.mark.parametrize("kind", ["eager", "sdpa"])
def test_heads_that_share_values_share_their_rotation(kind):
    model = unevened(llama())
    model.inner.config._attn_implementation = kind
    before, after, turned, found = rotate_heads(model, ids())
    assert is_same(after, before)
    assert [len(giver.free) for giver in found.givers] == [2, 2]
    names = {
        name
        for (name, one), two in zip(model.named_parameters(), turned.parameters(), strict=True)
        if not torch.equal(one, two)
    }
    assert {name.split(".")[-2] for name in names} == {"v_proj", "o_proj"}


def test_the_rotation_of_a_head_is_found_again_by_hand():
    model = unevened(llama()).double()
    _, _, turned, _ = rotate_heads(model, ids())
    one, two = (item.inner.model.layers[0].self_attn for item in (model, turned))
    old, new = (item.v_proj.weight.detach().reshape(2, 8, 48) for item in (one, two))
    # W' = Q^T W for each head, with one Q of the layer.
    rotation = torch.linalg.lstsq(old[0].T, new[0].T).solution
    eye = torch.eye(8, dtype=torch.float64)
    torch.testing.assert_close(rotation @ rotation.T, eye, rtol=0, atol=1e-9)
    torch.testing.assert_close(rotation.abs(), torch.full((8, 8), 8**-0.5).double())
    torch.testing.assert_close(new[1], rotation.T @ old[1])
    columns = one.o_proj.weight.detach().reshape(48, 6, 8) @ rotation
    torch.testing.assert_close(two.o_proj.weight.detach(), columns.reshape(48, 48))


class _Attention(nn.Module):
    """Two heads of four; something may happen to the values on the way."""

    def __init__(self, before=None, after=None):
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(8, 8) for _ in range(3))
        self.out = nn.Linear(8, 3)
        self.before = before or (lambda values: values)
        self.after = after or (lambda values: values)

    def forward(self, x):
        def heads(values):
            return values.unflatten(-1, (2, 4)).transpose(1, 2)

        scores = heads(self.query(x)) @ heads(self.key(x)).transpose(-1, -2)
        mixed = scores.softmax(-1) @ self.before(heads(self.value(x)))
        return self.out(self.after(mixed.transpose(1, 2).flatten(2)))


def test_an_attention_written_by_hand_is_rotated():
    before, after, _, found = rotate_heads(unevened(_Attention()), torch.randn(2, 5, 8))
    assert [giver.weight.name for giver in found.givers] == ["value.weight"]
    assert is_same(after, before)


@pytest.mark.parametrize(
    "cached",
    [
        lambda values: torch.cat([values.new_empty(0), values], dim=-2),
        lambda values: torch.cat([values[:, :, :0], values], dim=-2),
    ],
)
def test_an_empty_cache_before_the_values_changes_nothing(cached):
    model = unevened(_Attention(before=cached))
    before, after, _, found = rotate_heads(model, torch.randn(2, 5, 8))
    assert len(found.givers) == 1
    assert is_same(after, before)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"after": torch.relu}, "relu reads it"),
        ({"after": lambda values: values * 2}, "mul reads it"),
        ({"after": lambda values: functional.layer_norm(values, (8,))}, "layer_norm reads it"),
        ({"after": lambda values: values.roll(1, -1)}, "linear does not read it head by head"),
        ({"after": lambda values: values.flip(-1)}, "linear does not read it head by head"),
    ],
)
def test_values_that_go_elsewhere_stay(changes, why):
    model = unevened(_Attention(**changes))
    before, after, _, found = rotate_heads(model, torch.randn(2, 5, 8))
    assert found.givers == ()
    assert why in found.left["value.weight"]
    assert torch.equal(before, after)


def test_values_bent_before_they_are_weighed_are_none_of_a_layer():
    model = unevened(_Attention(before=torch.relu))
    before, after, _, found = rotate_heads(model, torch.randn(2, 5, 8))
    assert found.givers == ()
    assert torch.equal(before, after)


def test_a_layer_used_twice_and_zeros_that_must_stay_hold_values():
    shared = _Attention()
    shared.out = shared.value
    *_, found = rotate_heads(unevened(shared), torch.randn(2, 5, 8))
    assert "used more than once" in found.left["value.weight"]
    *_, found = rotate_heads(unevened(_Attention()), torch.randn(2, 5, 8), masks=["out.weight"])
    assert "'out.weight' has zeros that must stay" in found.left["value.weight"]


def test_values_that_are_an_output_stay():
    class _Both(_Attention):
        def forward(self, x):
            values = self.value(x)
            return self.out(values) + super().forward(x)

    before, after, _, found = rotate_heads(unevened(_Both()), torch.randn(2, 5, 8))
    assert torch.equal(before, after)
    assert found.givers == ()
