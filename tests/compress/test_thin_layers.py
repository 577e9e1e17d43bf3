"""Chains of thin layers against the layers that they stand for, and their cost against torch's."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune
from torch.utils.flop_counter import FlopCounterMode

from edgekit.compress.low_rank.decomposition import decompose
from edgekit.compress.low_rank.tucker import tucker2
from edgekit.compress.moments import Traffic
from edgekit.compress.thin_layers import (
    has_plain_forward,
    method_of,
    replace_module,
    svd_chain,
    tucker_chain,
    why_whole,
)
from tests.compress.benches import seeded

# float32 sums in another order.
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(5))


def full_factors(weight: Tensor) -> tuple[Tensor, Tensor]:
    left, values, right = torch.linalg.svd(weight.detach().double(), full_matrices=False)
    return left * values, right


CONVOLUTIONS = {
    "plain": lambda: nn.Conv2d(12, 16, 3),
    "strided": lambda: nn.Conv2d(12, 16, 3, stride=2, padding=1),
    "dilated": lambda: nn.Conv2d(12, 16, 3, padding=2, dilation=2),
    "uneven": lambda: nn.Conv2d(12, 16, (3, 5), stride=(2, 1), padding=(0, 2)),
    "same": lambda: nn.Conv2d(12, 16, 3, padding="same"),
    "reflected": lambda: nn.Conv2d(12, 16, 3, padding=1, padding_mode="reflect"),
    "circular": lambda: nn.Conv2d(12, 16, 3, padding=2, padding_mode="circular"),
    "no bias": lambda: nn.Conv2d(12, 16, 3, padding=1, bias=False),
}


@pytest.mark.parametrize("kind", CONVOLUTIONS)
@pytest.mark.parametrize("ranks", [(15, 11), (16, 11), (15, 12), (16, 12)])
def test_a_tucker_chain_computes_the_convolution_of_its_kernel(kind, ranks):
    layer, images = seeded(CONVOLUTIONS[kind]), random(2, 12, 11, 13)
    found = tucker2(layer.weight.double(), ranks)
    chain = tucker_chain(layer, found.out, found.core, found.inner)
    layer.weight.data = found.kernel.float()
    torch.testing.assert_close(chain(images), layer(images), **CLOSE)
    thin = (ranks[0] < 16) + (ranks[1] < 12)
    assert len(chain) == 1 + thin


def test_a_tucker_chain_of_a_one_dimensional_convolution():
    layer, sound = seeded(lambda: nn.Conv1d(12, 16, 5, stride=2, padding=2)), random(2, 12, 31)
    found = tucker2(layer.weight.double(), (9, 7))
    chain = tucker_chain(layer, found.out, found.core, found.inner)
    layer.weight.data = found.kernel.float()
    torch.testing.assert_close(chain(sound), layer(sound), **CLOSE)
    assert all(type(part) is nn.Conv1d for part in chain)


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (lambda: nn.Linear(12, 16), (3, 5, 12)),
        (lambda: nn.Linear(12, 16, bias=False), (3, 12)),
        (lambda: nn.Conv2d(12, 16, 1, stride=2), (2, 12, 9, 9)),
        (lambda: nn.Conv2d(12, 16, 1, padding=1, bias=False), (2, 12, 9, 9)),
        (lambda: nn.Conv1d(12, 16, 1), (2, 12, 9)),
    ],
)
def test_an_svd_chain_of_full_rank_computes_the_layer(make, shape):
    layer, given = seeded(make), random(*shape)
    chain = svd_chain(layer, *full_factors(layer.weight.flatten(1)))
    torch.testing.assert_close(chain(given), layer(given), **CLOSE)
    assert (chain[1].bias is None) == (layer.bias is None)


def test_an_svd_chain_of_gpt2s_linear_layer():
    from transformers.pytorch_utils import Conv1D

    layer, given = seeded(lambda: Conv1D(16, 12)), random(2, 5, 12)
    chain = svd_chain(layer, *full_factors(layer.weight.T))
    torch.testing.assert_close(chain(given), layer(given), **CLOSE)
    assert why_whole(layer) == ""


def test_parts_keep_dtype_training_and_whether_they_learn():
    layer = nn.Linear(12, 16).to(torch.bfloat16).train()
    layer.requires_grad_(requires_grad=False)
    chain = svd_chain(layer, *full_factors(layer.weight.float()))
    assert chain.training
    assert chain[0].training
    assert {value.dtype for value in chain.parameters()} == {torch.bfloat16}
    assert not any(value.requires_grad for value in chain.parameters())


def test_building_draws_nothing_from_the_global_generator():
    layer = seeded(lambda: nn.Conv2d(12, 16, 3))
    before = torch.get_rng_state()
    found = tucker2(layer.weight.double(), (8, 8))
    tucker_chain(layer, found.out, found.core, found.inner)
    svd_chain(nn.Linear(4, 4, device="meta"), torch.ones(4, 2), torch.ones(2, 4))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("make", "shape", "ranks"),
    [
        (lambda: nn.Conv2d(12, 16, 3, stride=2, padding=1), (1, 12, 10, 10), (8, 6)),
        (lambda: nn.Conv2d(12, 16, 3), (1, 12, 10, 10), (16, 6)),
        (lambda: nn.Conv2d(12, 16, 3), (1, 12, 10, 10), (8, 12)),
        (lambda: nn.Conv2d(12, 16, 1, stride=2), (1, 12, 10, 10), (5,)),
        (lambda: nn.Linear(12, 16), (1, 7, 12), (5,)),
    ],
)
def test_costs_are_those_that_torch_counts(make, shape, ranks):
    layer, given = seeded(make), random(*shape)
    out = layer(given)
    is_image = len(shape) == 4
    traffic = Traffic(
        positions_in=shape[2] * shape[3] if is_image else shape[1],
        positions_out=out.shape[2] * out.shape[3] if is_image else shape[1],
        power=1.0,
    )
    item = decompose(layer, traffic)
    for module, cost in ((layer, item.whole), (item.make(ranks), item.cost(ranks))):
        with FlopCounterMode(display=False) as counter:
            module(given)
        assert cost.macs == counter.get_total_flops() / 2
        assert cost.parameters == sum(value.numel() for value in module.parameters())


def test_grouped_and_depthwise_convolutions_stay_whole():
    assert "depthwise" in why_whole(nn.Conv2d(8, 8, 3, groups=8))
    assert "grouped" in why_whole(nn.Conv2d(8, 8, 3, groups=2))


def test_layers_of_other_kinds_stay_whole_and_are_named():
    assert why_whole(nn.Embedding(5, 4)) == "layers of class Embedding are not decomposed"
    assert (
        why_whole(nn.ConvTranspose2d(4, 4, 3))
        == "layers of class ConvTranspose2d are not decomposed"
    )
    assert why_whole(nn.Conv3d(4, 4, 3)) == "layers of class Conv3d are not decomposed"


class Standardized(nn.Conv2d):
    """A convolution that computes with another weight than its own."""

    def forward(self, image: Tensor) -> Tensor:
        return self._conv_forward(image, self.weight - self.weight.mean(), self.bias)


def test_a_subclass_with_a_forward_of_its_own_stays_whole():
    assert not has_plain_forward(Standardized(4, 4, 3))
    assert "way of their own" in why_whole(Standardized(4, 4, 3))


def test_a_computed_weight_stays_whole():
    layer = torch.nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))
    assert "computed" in why_whole(layer)
    masked = nn.Linear(4, 4)
    prune.random_unstructured(masked, "weight", 0.5)
    assert "computed" in why_whole(masked)


def test_kernels_of_one_tap_are_matrices():
    assert method_of(nn.Conv2d(4, 4, 1)) == "svd"
    assert method_of(nn.Conv1d(4, 4, 1)) == "svd"
    assert method_of(nn.Conv2d(4, 4, (1, 3))) == "tucker"
    assert method_of(nn.Linear(4, 4)) == "svd"


def test_the_model_itself_can_be_replaced():
    layer, new = nn.Linear(2, 2), nn.Identity()
    assert replace_module(layer, "", new) is new


@pytest.mark.parametrize("has_mask", [False, True])
def test_torchs_transformer_calls_a_replaced_layer(has_mask):
    encoder = seeded(
        lambda: nn.TransformerEncoder(
            nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), num_layers=2
        )
    )
    tokens = random(3, 5, 16)
    padding = torch.tensor([[False] * 5, [False] * 5, [False, False, False, True, True]])
    given = {"src_key_padding_mask": padding} if has_mask else {}
    kept = ~padding if has_mask else torch.ones(3, 5, dtype=torch.bool)
    wanted = copy.deepcopy(encoder)(tokens, **given)
    for path in ("layers.0.linear1", "layers.1.linear2"):
        layer = encoder.get_submodule(path)
        encoder = replace_module(encoder, path, svd_chain(layer, *full_factors(layer.weight)))
    with torch.no_grad():
        found = encoder(tokens, **given)
    torch.testing.assert_close(found[kept], wanted[kept], **CLOSE)
