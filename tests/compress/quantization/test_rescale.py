"""Rescaled channels: by arithmetic done by hand, and on every architecture that pruning knows."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from edgekit.compress.quantization.rescale import Pair, Reader, Slot, equalize_, precision_of
from edgekit.compress.quantization.rescale_pairs import find_pairs
from tests.compress.architectures import ALL

GIVEN = torch.Generator().manual_seed(0)


def call(model, inputs):
    found = model(inputs["x"])
    parts = found.to_tuple() if hasattr(found, "to_tuple") else found
    parts = parts if isinstance(parts, (tuple, list)) else (parts,)
    return {str(index): part for index, part in enumerate(parts)}


def pairs_of(model, *shape):
    return find_pairs(model.eval(), call, {"x": torch.randn(shape, generator=GIVEN)})


def paths(found):
    return {pair.path: [reader.name for reader in pair.readers] for pair in found.pairs}


@torch.no_grad()
def test_two_layers_by_hand():
    first, second = nn.Linear(2, 2), nn.Linear(2, 1)
    first.weight.copy_(torch.tensor([[1.0, 0.5], [0.0, 100.0]]))
    first.bias.copy_(torch.tensor([2.0, 3.0]))
    second.weight.copy_(torch.tensor([[10.0, 1.0]]))
    model = nn.Sequential(first, nn.ReLU(), second)
    (pair,) = pairs_of(model, 4, 2).pairs
    assert pair.ranges().tolist() == [1.0, 100.0]
    assert pair.reader_ranges().tolist() == [10.0, 1.0]
    assert equalize_([pair], 40, 1e-6) == 1
    # s = sqrt(r1 / r2) = sqrt(0.1), 10; both ranges become sqrt(r1 r2).
    low, high = math.sqrt(0.1), 10.0
    expected = torch.tensor([[1.0 / low, 0.5 / low], [0.0, 100.0 / high]])
    torch.testing.assert_close(first.weight.data, expected)
    torch.testing.assert_close(first.bias.data, torch.tensor([2.0 / low, 3.0 / high]))
    torch.testing.assert_close(second.weight.data, torch.tensor([[10.0 * low, 1.0 * high]]))


def test_precision_is_the_mean_share_of_the_largest_range():
    assert precision_of(torch.tensor([1.0, 0.5, 0.25, 0.25])) == 0.5
    assert precision_of(torch.zeros(3)) == 1.0


@torch.no_grad()
def test_a_chain_is_swept_until_nothing_moves():
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2))
    pairs = pairs_of(model, 2, 3).pairs
    assert equalize_(pairs, 100, 1e-6) < 100
    for pair in pairs:
        torch.testing.assert_close(pair.ranges(), pair.reader_ranges(), rtol=1e-4, atol=0)


@torch.no_grad()
def test_a_channel_that_is_zero_on_one_side_stays():
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2))
    model[0].weight[1].zero_()
    model[2].weight[:, 2].zero_()
    before = model[0].weight[2].clone(), model[2].weight[:, 1].clone()
    equalize_(pairs_of(model, 2, 2).pairs, 40, 1e-6)
    assert torch.equal(model[0].weight[2], before[0])
    assert torch.equal(model[2].weight[:, 1], before[1])
    assert bool(model[0].weight.isfinite().all() and model[2].weight.isfinite().all())


@pytest.mark.parametrize("name", ALL)
@torch.no_grad()
def test_every_architecture_gives_what_it_gave(name):
    model, example = ALL[name].model(), {"x": ALL[name].inputs()}
    found = find_pairs(model, call, example)
    assert "the outputs change with it" not in found.left.values()
    before = call(model, example)
    equalize_([pair for pair in found.pairs if pair.weight is not None], 20, 1e-3)
    draws = torch.Generator().manual_seed(3)
    for pair in found.pairs:
        pair.scale_(torch.rand(pair.channels, generator=draws) + 0.5)
    after = call(model, example)
    for key, value in before.items():
        assert float((after[key] - value).abs().max()) < 1e-4 * float(value.abs().max())


# What is found, and why the rest is not.


def test_an_inverted_bottleneck_is_rescaled_through_its_norms():
    def layer(inputs, outputs, size, groups=1):
        return [
            nn.Conv2d(inputs, outputs, size, padding=size // 2, groups=groups, bias=False),
            nn.BatchNorm2d(outputs),
        ]

    model = nn.Sequential(
        *layer(3, 8, 1), nn.ReLU(), *layer(8, 8, 3, 8), nn.LeakyReLU(), *layer(8, 4, 1)
    )
    found = pairs_of(model, 2, 3, 6, 6)
    assert paths(found) == {"0": ["3.weight"], "3": ["6.weight"]}
    assert found.left == {"6": "it gives an output of the model"}
    # The ranges are those of the weights that an exporter folds the norm into.
    norm, weight = model[1], model[0].weight.detach()
    norm.weight.data.uniform_(-2, 2)
    norm.running_var.uniform_(0.5, 2)
    folded = weight * (norm.weight / (norm.running_var + norm.eps).sqrt()).reshape(-1, 1, 1, 1)
    torch.testing.assert_close(found.pairs[0].ranges(), folded.detach().abs().amax((1, 2, 3)))


class Flat(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 3)
        self.scores = nn.Linear(3 * 2 * 2, 4)

    def forward(self, x):
        return self.scores(functional.max_pool2d(self.conv(x), 2).view(len(x), -1))


def test_pixels_laid_flat_belong_to_their_channel():
    found = pairs_of(Flat(), 2, 1, 6, 6)
    (pair,) = found.pairs
    assert pair.readers[0].columns.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    scores = pair.readers[0].weight.detach()
    by_hand = scores.reshape(4, 3, 4).abs().amax((0, 2))
    assert torch.equal(pair.reader_ranges(), by_hand)


def test_groups_and_transposed_convolutions_read_their_own_channels():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 4, 1), nn.Conv2d(4, 6, 3, groups=2), nn.ConvTranspose2d(6, 4, 2), nn.ReLU(),
        nn.Conv2d(4, 1, 1),
    )  # fmt: skip
    found = pairs_of(model, 2, 2, 5, 5)
    assert paths(found) == {"0": ["1.weight"], "1": ["2.weight"], "2": ["4.weight"]}
    grouped = model[1].weight.detach()  # outputs 0..2 see channels 0, 1; outputs 3..5 see 2, 3
    by_hand = torch.cat([grouped[:3].abs().amax((0, 2, 3)), grouped[3:].abs().amax((0, 2, 3))])
    assert torch.equal(found.pairs[0].reader_ranges(), by_hand)
    turned = model[2].weight.detach()
    assert torch.equal(found.pairs[1].reader_ranges(), turned.abs().amax((1, 2, 3)))
    assert torch.equal(found.pairs[2].ranges(), turned.abs().amax((0, 2, 3)))


class Forked(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 1)
        self.wide, self.narrow = nn.Conv2d(4, 2, 3, padding=1), nn.Conv2d(4, 2, 1)

    def forward(self, x):
        hidden = torch.relu(self.stem(x))
        return torch.cat([self.wide(hidden), self.narrow(hidden)], 1)


def test_all_readers_of_a_fork_are_scaled_by_the_larger_of_their_ranges():
    model = Forked()
    (pair,) = pairs_of(model, 2, 1, 4, 4).pairs
    assert [reader.name for reader in pair.readers] == ["wide.weight", "narrow.weight"]
    each = [item.weight.detach().abs().amax((0, 2, 3)) for item in (model.wide, model.narrow)]
    assert torch.equal(pair.reader_ranges(), torch.maximum(*each))


class OwnNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(6) + 0.5)
        self.shift = nn.Parameter(torch.rand(6))
        self.query, self.key = nn.Linear(6, 4), nn.Linear(6, 4)

    def forward(self, x):
        hidden = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)
        hidden = self.weight * hidden + self.shift
        return self.query(hidden) * torch.sigmoid(self.key(hidden))


@pytest.mark.parametrize(
    "norm", [nn.LayerNorm(6), nn.RMSNorm(6)], ids=["layer norm", "root mean square"]
)
def test_norms_give_channels_without_weights_of_their_own(norm):
    found = pairs_of(nn.Sequential(norm, nn.Linear(6, 2)), 2, 5, 6)
    assert paths(found) == {"0": ["1.weight"]}
    assert found.pairs[0].weight is None
    own = {f"0.{name}" for name, _ in norm.named_parameters()}
    assert {slot.name for slot in found.pairs[0].divided} == own


def test_a_norm_that_a_model_wrote_itself_is_one_too():
    (pair,) = pairs_of(OwnNorm(), 2, 5, 6).pairs
    assert [slot.name for slot in pair.divided] == ["weight", "shift"]
    assert [reader.name for reader in pair.readers] == ["query.weight", "key.weight"]


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.again = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        return self.again(torch.relu(self.again(torch.relu(self.first(x)))))


class Read(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        return self.last(torch.relu(self.first(x))) + self.first.weight.sum()


class Peeks(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        hidden = torch.relu(self.first(x))
        return self.last(hidden) * float(hidden.numpy().max())


@pytest.mark.parametrize(
    ("model", "path", "why"),
    [
        (nn.Sequential(nn.Linear(4, 4), nn.GELU(), nn.Linear(4, 2)), "0", "gelu stands between"),
        (nn.Sequential(nn.Linear(4, 4), nn.ReLU6(), nn.Linear(4, 2)), "0", "hardtanh stands"),
        (nn.Sequential(nn.Linear(4, 4), nn.Sigmoid()), "0", "sigmoid stands between"),
        (Twice(), "first", "used more than once"),
        (Read(), "first", "used more than once"),
        (Peeks(), "first", "numpy stands between it and its readers"),
    ],
)
def test_what_cannot_be_rescaled_says_why(model, path, why):
    found = pairs_of(model, 3, 4)
    assert path not in paths(found)
    assert why in found.left[path]


class Sly(nn.Module):
    """Its bend hides from torch's functions, so only trying it out tells."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        hidden = self.first(x)
        with torch._C.DisableTorchFunction():
            bent = hidden.tanh_()
        return self.last(bent)


def test_a_pair_that_changes_the_outputs_is_left_out():
    found = pairs_of(Sly(), 3, 4)
    assert not found.pairs
    assert found.left["first"] == "the outputs change with it"


@torch.no_grad()
def test_scaling_by_hand():
    first, second = torch.ones(2, 3), torch.ones(1, 2)
    slot = Slot(name="first", value=first)
    pair = Pair(
        path="a",
        channels=2,
        weight=slot,
        norm=None,
        divided=(slot,),
        readers=(Reader(name="second", weight=second),),
    )
    pair.scale_(torch.tensor([2.0, 4.0]))
    assert first.tolist() == [[0.5] * 3, [0.25] * 3]
    assert second.tolist() == [[2.0, 4.0]]


# Attention, heads that share values, and fused projections.


class Heads(nn.Module):
    """Two query heads that share one value head of three channels, by torch's matmul."""

    def __init__(self):
        super().__init__()
        self.query, self.key = nn.Linear(6, 6), nn.Linear(6, 3)
        self.value, self.out = nn.Linear(6, 3), nn.Linear(6, 6)

    def forward(self, x):
        count, length, _ = x.shape
        query = self.query(x).view(count, length, 2, 3).transpose(1, 2)
        key, value = (layer(x).view(count, length, 1, 3) for layer in (self.key, self.value))
        key, value = (it.transpose(1, 2).expand(-1, 2, -1, -1) for it in (key, value))
        weights = torch.softmax(query @ key.transpose(2, 3), -1)
        return self.out((weights @ value).transpose(1, 2).reshape(count, length, 6))


@torch.no_grad()
def test_heads_that_share_a_value_read_the_same_channels():
    model = Heads()
    found = pairs_of(model, 2, 5, 6)
    assert paths(found) == {"value": ["out.weight"]}
    assert "matmul stands" in found.left["query"]
    (pair,) = found.pairs
    assert pair.readers[0].columns.tolist() == [0, 1, 2, 0, 1, 2]
    by_hand = model.out.weight.abs().amax(0).reshape(2, 3).amax(0)
    assert torch.equal(pair.reader_ranges(), by_hand)
    before = model.out.weight.clone(), model.value.bias.clone()
    pair.scale_(torch.tensor([1.0, 2.0, 4.0]))
    factors = torch.tensor([1.0, 2.0, 4.0, 1.0, 2.0, 4.0])
    torch.testing.assert_close(model.out.weight.data, before[0] * factors)
    torch.testing.assert_close(model.value.bias.data, before[1] / factors[:3])


class Gate(nn.Module):
    """One projection for what is gated and for the gate."""

    def __init__(self):
        super().__init__()
        self.both, self.down = nn.Linear(4, 6), nn.Linear(3, 4)

    def forward(self, x):
        gate, up = self.both(x).chunk(2, -1)
        return self.down(functional.silu(gate) * up)


@torch.no_grad()
def test_of_a_fused_projection_only_the_linear_part_is_scaled():
    model, given = Gate(), torch.randn(5, 4, generator=GIVEN)
    found = find_pairs(model.eval(), call, {"x": given})
    (pair,) = found.pairs
    assert pair.free.tolist() == [False] * 3 + [True] * 3
    before, gate = model(given), model.both.weight[:3].clone()
    pair.scale_(torch.tensor([9.0, 9.0, 9.0, 0.5, 3.0, 7.0]))
    assert torch.equal(model.both.weight[:3], gate)
    torch.testing.assert_close(model(given), before)


class Same(nn.Module):
    """Queries, keys and values are one tensor."""

    def __init__(self):
        super().__init__()
        self.all, self.out = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        hidden = self.all(x)
        return self.out(functional.scaled_dot_product_attention(hidden, hidden, hidden))


def test_values_that_are_keys_too_are_left():
    found = pairs_of(Same(), 2, 3, 4)
    assert not found.pairs
    assert "scaled_dot_product_attention stands" in found.left["all"]
    assert found.unscaled == {}


class PostNorm(nn.Module):
    """What a norm gives goes to a layer and into a sum, as in BERT."""

    def __init__(self):
        super().__init__()
        self.norm, self.wide, self.narrow = nn.LayerNorm(4), nn.Linear(4, 8), nn.Linear(8, 4)

    def forward(self, x):
        hidden = self.norm(x)
        return hidden + self.narrow(functional.gelu(self.wide(hidden)))


def test_a_weight_that_reads_what_cannot_be_scaled_says_whose_it_is():
    found = pairs_of(PostNorm(), 2, 4)
    assert not found.pairs
    assert found.unscaled == {"wide.weight": "norm: add stands between it and its readers"}


class Tied(nn.Module):
    """The last layer's weight is the table of tokens."""

    def __init__(self):
        super().__init__()
        self.table, self.norm = nn.Embedding(7, 4), nn.LayerNorm(4)
        self.scores = nn.Linear(4, 7, bias=False)
        self.scores.weight = self.table.weight

    def forward(self, x):
        return self.scores(self.norm(self.table(x)))


def test_tied_weights_are_left_alone():
    model = Tied().eval()
    found = find_pairs(model, call, {"x": torch.tensor([[1, 2, 3]])})
    assert not found.pairs
    (why,) = found.unscaled.values()
    assert "used more than once" in why


def test_a_norm_without_weights_gives_nothing_to_scale():
    norm = nn.LayerNorm(6, elementwise_affine=False)
    found = pairs_of(nn.Sequential(norm, nn.Linear(6, 2)), 2, 6)
    assert not found.pairs
