"""What a layer multiplies its weight with, against torch's own layers and numpy."""

import numpy as np
import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from edgekit.compress.layer_inputs import gather, in_groups, input_vectors
from edgekit.compress.sparsity.sparse_layers import participants
from edgekit.core.errors import StepError
from tests.compress.benches import bench_of, cnn_bench, mlp_bench, transformer_bench


def weight_of(layer):
    return participants(layer).weights[0]


def drawn(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


LAYERS = {
    "linear": (lambda: nn.Linear(6, 4), (2, 5, 6)),
    "turned": (lambda: Conv1D(4, 6), (2, 5, 6)),
    "1x1": (lambda: nn.Conv2d(6, 4, 1), (2, 6, 5, 7)),
    "3x3": (lambda: nn.Conv2d(6, 4, 3, padding=1), (2, 6, 5, 7)),
    "stride and dilation": (lambda: nn.Conv2d(3, 4, (3, 2), stride=2, dilation=2), (2, 3, 11, 9)),
    "same": (lambda: nn.Conv2d(3, 4, 4, padding="same"), (2, 3, 8, 8)),
    "reflected": (lambda: nn.Conv2d(3, 4, 3, padding=(1, 2), padding_mode="reflect"), (2, 3, 8, 8)),
    "circular": (lambda: nn.Conv2d(3, 4, 3, padding=1, padding_mode="circular"), (2, 3, 8, 8)),
    "grouped": (lambda: nn.Conv2d(6, 9, 3, padding=1, groups=3), (2, 6, 5, 5)),
    "depthwise": (lambda: nn.Conv2d(6, 6, 3, stride=2, groups=6), (2, 6, 9, 9)),
    "one axis": (lambda: nn.Conv1d(4, 6, 3, padding=1, stride=2, groups=2), (2, 4, 10)),
}


@pytest.mark.filterwarnings("ignore:Using padding='same'")  # of torch, for an even kernel
@pytest.mark.parametrize("name", LAYERS)
def test_weight_times_vectors_is_what_the_layer_gives(name):
    make, shape = LAYERS[name]
    layer, given = make(), drawn(*shape)
    layer.bias.data.zero_()
    weight = weight_of(layer)
    (vectors,) = input_vectors(weight, given)
    matrix = weight.matrix(layer.weight).reshape(weight.groups, -1, vectors.shape[-1])
    found = vectors @ matrix.transpose(1, 2)  # (groups, places, outputs of a group)
    wanted = layer(given)
    if not isinstance(layer, (nn.Linear, Conv1D)):
        wanted = wanted.movedim(1, -1)
    wanted = wanted.reshape(-1, wanted.shape[-1])
    # float32, sums in another order
    torch.testing.assert_close(found.movedim(0, 1).flatten(1), wanted, rtol=1e-4, atol=1e-5)


def test_a_sample_without_a_batch_axis_is_one_sample():
    layer = nn.Conv2d(3, 4, 3)
    weight = weight_of(layer)
    given = drawn(3, 6, 6)
    (alone,), (batched,) = input_vectors(weight, given), input_vectors(weight, given[None])
    assert torch.equal(alone, batched)


def test_large_inputs_come_in_parts(monkeypatch):
    weight = weight_of(nn.Conv2d(3, 4, 3))
    given = drawn(7, 3, 16, 16)
    (whole,) = input_vectors(weight, given)
    monkeypatch.setattr("edgekit.compress.layer_inputs._UNFOLDED_BYTES", 60_000)
    parts = list(input_vectors(weight, given))
    assert len(parts) > 2
    assert torch.equal(torch.cat(parts, dim=1), whole)


def test_sums_are_those_of_all_calibration_samples(digits, checkpoints):
    bench = mlp_bench(digits, checkpoints)
    first = participants(bench.model).weights[0]
    sums = gather(bench, bench.model, [first], has_products=True)[first.name]
    (rows,) = digits.calibration.batches(digits.calibration.count, ["image"])
    pixels = rows["image"].reshape(len(rows["image"]), -1).astype(np.float64)
    assert sums.vectors == 64
    # One batch is summed in float32.
    np.testing.assert_allclose(sums.squares[0].numpy(), (pixels**2).sum(axis=0), rtol=1e-5)
    np.testing.assert_allclose(sums.products[0].numpy(), pixels.T @ pixels, rtol=1e-4, atol=1e-3)


def test_nothing_is_left_behind(digits, checkpoints):
    bench = cnn_bench(digits, checkpoints)
    bench.model.train()
    weights = participants(bench.model).weights
    gather(bench, bench.model, weights, has_products=False)
    assert bench.model.training
    assert not any(module._forward_pre_hooks for module in bench.model.modules())


def test_layers_that_are_never_called_are_left_out(digits, checkpoints):
    bench = transformer_bench(digits, checkpoints)
    bench.model.spare = nn.Linear(4, 4)
    weights = participants(bench.model).weights
    seen = gather(bench, bench.model, weights, has_products=False)
    assert {item.name for item in weights} - seen.keys() == {"spare.weight"}


def test_inputs_that_are_not_finite_name_the_layer(digits, checkpoints):
    class Broken(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(64, 10)

        def forward(self, image):
            return self.head(image.flatten(1) / 0)

    bench = bench_of(Broken(), digits, checkpoints)
    with pytest.raises(StepError, match="'head'"):
        gather(bench, bench.model, participants(bench.model).weights, has_products=False)


def test_groups_fit_into_memory_and_a_large_layer_goes_alone():
    model = nn.Sequential(*(nn.Linear(size, 2) for size in (10, 10, 40, 10)))
    groups = list(in_groups(participants(model).weights, limit_bytes=2 * 8 * 100))
    assert [[item.path for item in group] for group in groups] == [["0", "1"], ["2"], ["3"]]
