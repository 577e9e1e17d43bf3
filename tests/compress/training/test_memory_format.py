"""Channels last where the model takes it, and the usual order where it does not."""

import pytest
import torch
from torch import nn

from edgekit.compress.training.memory_format import channels_last
from tests.compress.benches import TinyCnn, TinyMlp, seeded


def _is_last(model):
    return model.stem.weight.is_contiguous(memory_format=torch.channels_last)


def test_convolutions_are_in_the_order_within_the_block_alone():
    model, image = seeded(TinyCnn), torch.randn(2, 1, 8, 8)
    expected = model(image)
    with channels_last(model, lambda: model(image)) as is_taken:
        assert is_taken
        assert model.first.weight.is_contiguous(memory_format=torch.channels_last)
        # Another order of the same sums.
        assert torch.allclose(model(image), expected, atol=1e-5)
    assert model.first.weight.is_contiguous()
    assert torch.equal(model(image), expected)


class Viewing(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, image):
        return self.conv(image).view(len(image), -1)


def test_a_model_that_views_its_tensors_keeps_the_usual_order():
    model, image = Viewing(), torch.randn(2, 3, 8, 8)
    with channels_last(model, lambda: model(image)) as is_taken:
        assert not is_taken
        model(image)


def test_a_trial_changes_no_statistics_and_no_modes():
    model, image = seeded(TinyCnn).train(), torch.randn(2, 1, 8, 8)
    before = model.stem_norm.running_mean.clone()
    with channels_last(model, lambda: model(image)):
        assert model.training
        assert torch.equal(model.stem_norm.running_mean, before)


def test_a_model_without_convolutions_is_not_tried():
    model = seeded(TinyMlp)
    with channels_last(model, lambda: pytest.fail("it was tried")) as is_taken:
        assert not is_taken


def test_the_order_goes_back_after_an_error_too():
    model = seeded(TinyCnn)
    with pytest.raises(ValueError, match="of the block"), channels_last(model, lambda: None):
        raise ValueError("of the block")
    assert model.first.weight.is_contiguous()
