"""Pruning by size, against torch.nn.utils.prune and arithmetic by hand."""

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from edgekit.compress.sparsity.magnitude import global_masks, magnitude_mask


def drawn(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def test_the_smallest_weights_go_whatever_their_sign():
    weight = torch.tensor([[0.5, -0.1, 0.3], [-0.9, 0.2, -0.05]])
    mask = magnitude_mask(weight, 0.5)
    assert mask.tolist() == [[True, False, True], [True, False, False]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_a_layers_mask_is_torchs_own(dtype):
    layer = nn.Linear(20, 30).to(dtype)
    layer.weight.data = drawn(30, 20, dtype=dtype)
    mask = magnitude_mask(layer.weight, 0.7)
    prune.l1_unstructured(layer, "weight", amount=420)
    kept = layer.weight_mask.bool()
    # Equal sizes, which low precision has, may go in another order.
    assert int(mask.sum()) == int(kept.sum()) == 180
    assert layer.weight_orig[mask].abs().sum() == layer.weight_orig[kept].abs().sum()


def test_masks_over_all_layers_are_torchs_own():
    layers = [nn.Linear(8, 16), nn.Linear(16, 4)]
    layers[0].weight.data, layers[1].weight.data = drawn(16, 8), 0.2 * drawn(4, 16, seed=1)
    masks = global_masks({"a": layers[0].weight, "b": layers[1].weight}, 0.6)
    named = [(layer, "weight") for layer in layers]
    prune.global_unstructured(named, pruning_method=prune.L1Unstructured, amount=0.6)
    for name, layer in zip("ab", layers, strict=True):
        assert torch.equal(masks[name], layer.weight_mask.bool())


def test_layers_compete_for_a_global_share():
    masks = global_masks({"large": torch.full((2, 2), 5.0), "small": torch.full((2, 2), 0.1)}, 0.5)
    assert masks["large"].all()
    assert not masks["small"].any()


def test_a_pattern_has_two_of_every_four_neighbours():
    weight = drawn(6, 32)
    mask = magnitude_mask(weight, 0.5, group=4)
    assert (mask.reshape(-1, 4).sum(dim=1) == 2).all()
    sizes = weight.abs().reshape(-1, 4)
    kept = mask.reshape(-1, 4)
    lowest_kept = sizes.masked_fill(~kept, torch.inf).amin(dim=1)
    assert (lowest_kept >= sizes.masked_fill(kept, 0).amax(dim=1)).all()


def test_zeros_of_before_are_part_of_the_share():
    weight = drawn(10, 10)
    keep = torch.ones(10, 10, dtype=torch.bool)
    keep[0] = False
    mask = magnitude_mask(weight, 0.3, keep=keep)
    assert not mask[0].any()
    assert int((~mask).sum()) == 30
