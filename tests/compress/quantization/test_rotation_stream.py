"""Streams of real architectures: rotated with the same outputs, or left with the reason."""

import copy

import pytest
import torch
from torch import nn

from tests.compress.architectures import ALL, CNNS, IDS
from tests.compress.quantization.rotated import llama, rotate_stream, unevened

# Of the largest output: float32 and float64 rounding through a few blocks; a matrix too much or
# too little gives about 1.
SAME = {torch.float32: 3e-6, torch.float64: 1e-12}
PRE_NORM = [
    *("fused qkv", "split qkv", "separate qkv"),
    *("grouped queries, four keys", "grouped queries, two keys"),
]


def is_same(after, before):
    return bool((after - before).abs().max() < SAME[before.dtype] * before.abs().max())


def ids(words=50):
    return torch.randint(0, words, IDS, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", PRE_NORM)
def test_pre_norm_transformers_give_the_same_outputs_in_both_types(name):
    for model in (unevened(ALL[name].model()), unevened(ALL[name].model()).double()):
        value = ALL[name].inputs().to(next(model.parameters()).dtype)
        before, after, turned, found = rotate_stream(model, value)
        assert is_same(after, before)
        (stream,) = found.streams
        assert stream.space.size == 32
        assert any(not torch.equal(one, two) for one, two in _pairs(model, turned))


def _pairs(one, two):
    return zip(one.parameters(), two.parameters(), strict=True)


def test_llama_with_shared_values_gives_the_same_outputs():
    model = unevened(llama())
    before, after, turned, found = rotate_stream(model, ids())
    assert is_same(after, before)
    (stream,) = found.streams
    assert len(stream.layers) == 2 * 5 + 1
    assert not stream.space.keeps_ones
    norms = [m for m in turned.modules() if type(m).__name__ == "LlamaRMSNorm"]
    assert len(norms) == 5
    assert all(norm.weight.eq(1).all() for norm in norms)


def test_torchs_own_layers_are_rotated_where_norms_come_first():
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, norm_first=True)
    encoder = nn.TransformerEncoder(layer, 2, norm=nn.LayerNorm(32), enable_nested_tensor=False)
    model = unevened(nn.Sequential(nn.Linear(8, 32), encoder, nn.Linear(32, 5, bias=False)))
    value = torch.randn(2, 7, 8, dtype=torch.float64)
    before, after, turned, found = rotate_stream(model.double(), value)
    assert is_same(after, before)
    assert len(found.streams) == 1
    # The last norm's bias had to go somewhere.
    assert turned[2].bias is not None


class _Patches(nn.Module):
    """As vision transformers begin: a convolution, a class token, places."""

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, 12, 4, stride=4)
        self.start = nn.Parameter(torch.randn(1, 1, 12))
        self.places = nn.Parameter(torch.randn(1, 17, 12))
        self.norm, self.head = nn.LayerNorm(12), nn.Linear(12, 5)

    def forward(self, image):
        tokens = self.patches(image).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.start.expand(len(tokens), -1, -1), tokens], dim=1)
        return self.head(self.norm(tokens + self.places)[:, 0])


def test_patches_of_a_picture_write_into_a_stream():
    model = unevened(_Patches()).double()
    value = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    before, after, _, found = rotate_stream(model, value)
    assert is_same(after, before)
    names = {item.leaf.name for stream in found.streams for item in stream.turned}
    assert names == {"patches.weight", "patches.bias", "start", "places", "head.weight"}


def test_an_embedding_that_is_the_output_layer_too_stays_unless_it_may_become_two():
    model = unevened(llama(is_tied=True))
    before, after, turned, found = rotate_stream(model, ids())
    assert torch.equal(before, after)
    (why,) = found.left.values()
    assert "may_untie = true" in why
    assert f"{50 * 48 * 4:,} bytes" in why
    before, after, turned, found = rotate_stream(model, ids(), may_untie=True)
    assert is_same(after, before)
    inner = turned.inner
    assert inner.lm_head.weight is not inner.model.embed_tokens.weight
    assert found.streams[0].tied == ("inner.model.embed_tokens.weight",)


def test_a_norm_with_a_bias_before_a_tied_output_layer_gives_it_a_bias():
    model = unevened(ALL["gpt2"].model()).double()
    before, after, turned, _ = rotate_stream(model, ids(), may_untie=True)
    assert is_same(after, before)
    assert model.model.lm_head.bias is None
    assert turned.model.lm_head.bias is not None


@pytest.mark.parametrize("name", ["bert", "torch's own"])
def test_norms_between_blocks_leave_no_stream(name):
    model = unevened(ALL[name].model())
    before, after, _, found = rotate_stream(model, ALL[name].inputs())
    assert torch.equal(before, after)
    assert found.streams == ()
    assert any("which must go into linear layers" in why for why in found.left.values())


def test_a_model_that_gives_the_stream_away_is_left():
    model = unevened(ALL["vit"].model())
    before, after, _, found = rotate_stream(model, ALL["vit"].inputs())
    assert torch.equal(before, after)
    assert "it gives the model's output 'y'" in found.left.values()


@pytest.mark.parametrize("name", CNNS)
def test_convolutional_nets_have_none(name):
    before, after, _, found = rotate_stream(ALL[name].model(), ALL[name].inputs())
    assert found.streams == ()
    assert torch.equal(before, after)


class _Shared(nn.Module):
    """A stream between layers that can be used in other ways."""

    def __init__(self, case):
        super().__init__()
        self.case = case
        self.into, self.norm = nn.Linear(12, 12), nn.RMSNorm(12)
        self.up, self.last = nn.Linear(12, 12), nn.Linear(12, 3)
        if case == "unshifted":
            self.norm, self.up = nn.LayerNorm(12), nn.Linear(12, 12, bias=False)
        if case == "idle":
            self.idle = nn.Linear(12, 4)
        if case == "computed":
            nn.utils.parametrizations.weight_norm(self.up)

    def forward(self, x):
        if self.case in ("twice", "unshifted"):
            states = self.into(x) + self.into(torch.relu(x))
            return self.last(self.norm(self.up(self.norm(states)) + states))
        inner = torch.relu(self.up(self.norm(self.into(x))))
        if self.case == "other":
            inner = self.up(inner)
        if self.case == "penalty":
            inner = inner * self.up.weight.square().sum()
        return self.last(inner)


@pytest.mark.parametrize(
    ("case", "why"),
    [
        ("other", "'up.weight' is used in another way as well"),
        ("penalty", "'up.weight' is used in another way as well"),
        ("idle", "'idle.weight' takes no part in a run"),
        ("computed", "linear reads what norm.weight weighs"),
    ],
)
def test_weights_that_cannot_change_for_all_their_uses_stay(case, why):
    model = unevened(_Shared(case))
    before, after, _, found = rotate_stream(model, torch.randn(2, 5, 12))
    assert found.streams == ()
    assert any(why in reason for reason in found.left.values()), found.left
    assert torch.equal(before, after)


@pytest.mark.parametrize("case", ["twice", "unshifted"])
def test_a_layer_that_writes_twice_is_rotated_once_and_a_bias_that_was_made_too(case):
    model = unevened(_Shared(case)).double()
    before, after, _, found = rotate_stream(model, torch.randn(2, 5, 12, dtype=torch.float64))
    assert len(found.streams) == 1
    assert is_same(after, before)


def test_zeros_that_must_stay_hold_a_stream():
    model = unevened(ALL["fused qkv"].model())
    name = "layers.0.attention.qkv.weight"
    *_, found = rotate_stream(model, ALL["fused qkv"].inputs(), masks=[name])
    assert found.streams == ()
    assert any(f"'{name}' has zeros that must stay" in why for why in found.left.values())


def test_a_rotated_model_can_be_rotated_again():
    model = unevened(ALL["separate qkv"].model()).double()
    value = ALL["separate qkv"].inputs().double()
    before, _, turned, _ = rotate_stream(model, value)
    _, after, _, found = rotate_stream(copy.deepcopy(turned), value)
    assert len(found.streams) == 1
    assert is_same(after, before)
