"""Layers are paired by depth among those of like size, and projected to the teacher's width."""

import pytest
import torch
from torch import nn

from edgekit.compress.distillation.features import (
    Projection,
    blocks,
    default_pairs,
    pair_layers,
    sized_alike,
)
from edgekit.compress.distillation.taps import seen_layers
from edgekit.core.errors import StepError
from tests.compress.benches import (
    TinyCnn,
    TinyMlp,
    TinyTransformer,
    bench_of,
    seeded,
)
from tests.compress.networks import TinyResNet


def _layers(digits, checkpoints, make):
    bench = bench_of(seeded(make), digits, checkpoints)
    return seen_layers(bench.model, bench)


def _paths(pairs):
    return {pair.student.path: pair.teacher.path for pair in pairs}


def test_the_blocks_of_a_resnet_are_paired_within_each_stage(digits, checkpoints):
    student = _layers(digits, checkpoints, lambda: TinyResNet(4, (1, 2)))
    teacher = _layers(digits, checkpoints, lambda: TinyResNet(8, (3, 4)))
    assert _paths(default_pairs(student, teacher)) == {
        "stage1.0": "stage1.2",
        "stage2.0": "stage2.1",
        "stage2.1": "stage2.3",
    }


def test_the_layers_of_transformers_are_paired_evenly_and_last_with_last(digits, checkpoints):
    student = _layers(digits, checkpoints, lambda: TinyTransformer(16, 2, layers=2))
    teacher = _layers(digits, checkpoints, lambda: TinyTransformer(32, 4, layers=6))
    pairs = default_pairs(student, teacher)
    assert _paths(pairs) == {"layers.0": "layers.2", "layers.1": "layers.5"}
    assert [pair.student.channels for pair in pairs] == [16, 16]


def test_no_more_than_four_pairs_of_one_size_are_made(digits, checkpoints):
    deep = _layers(digits, checkpoints, lambda: TinyTransformer(16, 2, layers=8))
    found = _paths(default_pairs(deep, deep))
    assert found == {f"layers.{n}": f"layers.{n}" for n in (1, 3, 5, 7)}


def test_without_blocks_the_last_layer_of_each_size_is_taken(digits, checkpoints):
    student = _layers(digits, checkpoints, lambda: TinyCnn(4))
    teacher = _layers(digits, checkpoints, TinyCnn)
    assert _paths(default_pairs(student, teacher)) == {
        "second_norm": "second_norm",
        "pointwise": "pointwise",
    }


def test_a_model_with_blocks_teaches_one_without(digits, checkpoints):
    student = _layers(digits, checkpoints, lambda: TinyCnn(4))
    teacher = _layers(digits, checkpoints, TinyResNet)
    assert _paths(default_pairs(student, teacher)) == {
        "second_norm": "stage1.1",
        "pointwise": "stage2.1",
    }


def test_hidden_layers_of_an_mlp_are_paired_but_not_its_output(digits, checkpoints):
    student = _layers(digits, checkpoints, lambda: TinyMlp(8))
    teacher = _layers(digits, checkpoints, TinyMlp)
    pairs = default_pairs(student, teacher)
    assert _paths(pairs) == {"layers.1": "layers.1", "layers.3": "layers.3"}


class _Wrapped(nn.Module):
    """A body in a list beside a head."""

    def __init__(self):
        super().__init__()
        self.parts = nn.Sequential(_Body(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(16, 10)

    def forward(self, image):
        return self.head(self.parts(image))


class _Body(TinyResNet):
    def forward(self, image):
        return self.stage2(self.stage1(self.stem(image)))


def test_blocks_are_found_within_a_body_that_stands_in_a_list(digits, checkpoints):
    found = blocks(_layers(digits, checkpoints, _Wrapped))
    assert [layer.path for layer in found] == [
        f"parts.0.{path}" for path in ("stage1.0", "stage1.1", "stage2.0", "stage2.1")
    ]


def test_pairs_that_are_asked_for_are_taken(digits, checkpoints):
    layers = _layers(digits, checkpoints, TinyResNet)
    pairs = pair_layers(layers, layers, {"stage1.0": "stage2.1"})
    assert _paths(pairs) == {"stage1.0": "stage2.1"}


def test_a_path_that_is_not_there_gets_the_nearest_one(digits, checkpoints):
    layers = _layers(digits, checkpoints, TinyResNet)
    with pytest.raises(StepError, match=r"teacher has no layer 'stage3.0'.*did you mean 'stage"):
        pair_layers(layers, layers, {"stage1.0": "stage3.0"})
    with pytest.raises(StepError, match="the student has no layer 'bert'"):
        pair_layers(layers, layers, {"bert": "stage1.0"})


def test_a_picture_is_not_paired_with_a_vector(digits, checkpoints):
    layers = _layers(digits, checkpoints, TinyResNet)
    with pytest.raises(StepError, match=r"'stage1.0' gives \[2, 8, 8, 8\] and 'classifier'"):
        pair_layers(layers, layers, {"stage1.0": "classifier"})


def test_models_without_a_size_in_common_name_the_sizes_of_both(digits, checkpoints):
    student = _layers(digits, checkpoints, lambda: TinyTransformer(16, 2))
    teacher = _layers(digits, checkpoints, TinyCnn)
    with pytest.raises(StepError, match=r"no layer.*8 against 8x8, 4x4.*'pairs'"):
        default_pairs(student, teacher)


def test_a_projection_is_a_1x1_convolution():
    projection = Projection(3, 5, torch.Generator().manual_seed(0))
    convolution = nn.Conv2d(3, 5, 1)
    with torch.no_grad():
        convolution.weight.copy_(projection.weight[:, :, None, None])
        convolution.bias.copy_(projection.bias)
    pictures = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    found = projection(pictures.movedim(1, -1)).movedim(-1, 1)
    assert torch.allclose(found, convolution(pictures), atol=1e-6)


def test_a_projection_between_equal_widths_begins_as_the_identity():
    features = torch.randn(2, 7, 5, generator=torch.Generator().manual_seed(0))
    projection = Projection(5, 5, torch.Generator())
    assert torch.allclose(projection(features), features)


def test_larger_features_are_averaged_down_to_the_smaller_size():
    ours, theirs = torch.arange(16.0).reshape(1, 4, 4, 1), torch.zeros(1, 2, 2, 3)
    found, same = sized_alike(ours, theirs)
    # means of the four quarters of 0..15
    assert found.flatten().tolist() == [2.5, 4.5, 10.5, 12.5]
    assert same.shape == (1, 2, 2, 3)
