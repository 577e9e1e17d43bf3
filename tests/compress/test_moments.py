"""Moments against sums over the activations themselves."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgekit.compress.moments import BATCH_SAMPLES, channel_rows, in_groups, input_batches, observe
from edgekit.core.errors import StepError
from edgekit.data.dataset import Dataset, add_choices
from tests.compress.benches import bench_of, cnn_bench, seeded, transformer_bench, write

BOTH = frozenset({"inputs", "outputs"})


def all_inputs(data: Dataset) -> Tensor:
    return torch.from_numpy(next(iter(data.batches(data.count)))["image"])


def test_moments_are_means_over_all_positions_and_samples(digits, checkpoints):
    bench = cnn_bench(digits, checkpoints)
    seen = observe(bench, bench.model, {"first": BOTH, "stem": BOTH})
    images = all_inputs(digits.calibration)
    stem = bench.model.stem(images)
    given = torch.relu(bench.model.stem_norm(stem))
    rows = given.movedim(1, -1).reshape(-1, 16).double()
    moment = seen["first"].moments["inputs"]
    # Sums of each batch are taken in float32.
    torch.testing.assert_close(moment.second, rows.T @ rows / len(rows), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(moment.mean, rows.mean(dim=0), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(
        moment.covariance, torch.cov(rows.T, correction=0), rtol=1e-3, atol=1e-5
    )
    assert seen["first"].power == pytest.approx(rows.square().mean().item(), rel=1e-4)
    made = stem.movedim(1, -1).reshape(-1, 16).double()
    torch.testing.assert_close(
        seen["stem"].moments["outputs"].second, made.T @ made / len(made), rtol=1e-4, atol=1e-6
    )


def test_outputs_are_seen_without_the_bias(digits, checkpoints):
    bench = cnn_bench(digits, checkpoints)
    layer = bench.model.classifier
    with torch.no_grad():
        layer.bias.fill_(100.0)
    seen = observe(bench, bench.model, {"classifier": BOTH})["classifier"]
    expected = layer.weight.detach().double() @ seen.moments["inputs"].mean
    torch.testing.assert_close(seen.moments["outputs"].mean, expected, rtol=1e-3, atol=1e-4)


def test_positions_are_counted_for_each_sample(digits, checkpoints):
    bench = cnn_bench(digits, checkpoints)
    layers = ("depthwise", "pointwise", "classifier")
    seen = observe(bench, bench.model, dict.fromkeys(layers, frozenset()), batches=1)
    assert (seen["depthwise"].positions_in, seen["depthwise"].positions_out) == (64, 16)
    assert (seen["pointwise"].positions_in, seen["pointwise"].positions_out) == (16, 16)
    assert seen["classifier"].positions_out == 1
    assert not seen["classifier"].moments


def test_tokens_are_positions(digits, checkpoints):
    bench = transformer_bench(digits, checkpoints)
    seen = observe(bench, bench.model, {"layers.0.ffn_in": frozenset()})
    assert seen["layers.0.ffn_in"].positions_in == 8


class Twice(nn.Module):
    """Calls one layer twice and another never."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.unused = nn.Linear(64, 64), nn.Linear(64, 64)

    def forward(self, image: Tensor) -> Tensor:
        return self.used(input=self.used(image.flatten(1)))[:, :10]


def test_a_layer_called_twice_counts_twice_and_one_never_called_is_left_out(digits, checkpoints):
    bench = bench_of(seeded(Twice), digits, checkpoints)
    seen = observe(bench, bench.model, {"used": BOTH, "unused": BOTH})
    assert seen["used"].positions_in == 2
    assert "unused" not in seen


def test_nothing_of_the_watching_stays(digits, checkpoints):
    bench = cnn_bench(digits, checkpoints)
    bench.model.train()
    before = {name: value.clone() for name, value in bench.model.state_dict().items()}
    observe(bench, bench.model, {"first": BOTH})
    assert bench.model.training
    assert not bench.model.first._forward_hooks
    assert all(torch.equal(before[name], value) for name, value in bench.model.state_dict().items())
    assert torch.backends.mha.get_fastpath_enabled()


def test_hooks_are_gone_after_a_failure_too(digits, checkpoints):
    bench = cnn_bench(digits, checkpoints)
    with torch.no_grad():
        bench.model.first.weight[0, 0, 0, 0] = torch.nan
    with pytest.raises(StepError, match="layer 'second' gets or gives NaN"):
        observe(bench, bench.model, {"second": BOTH})
    assert not bench.model.second._forward_hooks


def test_groups_fit_into_the_limit_and_a_large_layer_goes_alone():
    sizes = {"a": {"inputs": 10}, "b": {"inputs": 10}, "c": {"inputs": 30}, "d": {"outputs": 10}}
    groups = list(in_groups(sizes, limit_bytes=2 * 10 * 10 * 8))
    assert [list(group) for group in groups] == [["a", "b"], ["c"], ["d"]]
    assert groups[2]["d"] == frozenset({"outputs"})


def test_a_sample_without_a_batch_axis_has_the_same_rows():
    layer, image = nn.Conv2d(3, 4, 3), torch.randn(3, 5, 6)
    assert torch.equal(channel_rows(layer, image), channel_rows(layer, image[None]))


def test_halves_are_every_second_sample_and_together_all(digits, checkpoints):
    bench = cnn_bench(digits, checkpoints)
    images = all_inputs(digits.calibration)
    assert len(images) > BATCH_SAMPLES
    for half in (0, 1):
        found = torch.cat([item["image"] for item in input_batches(bench, half=half)])
        assert torch.equal(found, images[half::2])


def test_a_half_without_a_sample_has_no_batch(digits, checkpoints, tmp_path):
    one = write([(np.zeros((8, 8), np.uint8), 0)], tmp_path / "one")
    bench = cnn_bench(replace(digits, calibration=one), checkpoints)
    assert [len(item["image"]) for item in input_batches(bench, half=0)] == [1]
    assert list(input_batches(bench, half=1)) == []


def test_a_sample_that_meets_every_choice_is_in_one_half_with_all_of_them(
    digits, checkpoints, tmp_path
):
    samples = [(np.full((8, 8), shade, np.uint8), 0) for shade in range(4)]
    write(samples, tmp_path / "met")
    met = add_choices(tmp_path / "met", "adapter", np.arange(3, dtype=np.int64)[:, None])
    bench = cnn_bench(replace(digits, calibration=met), checkpoints)
    [batch] = input_batches(bench, half=1)
    shades = batch["image"][:, 0, 0, 0]
    assert len(shades) == 6
    assert torch.equal(shades[:3], shades[:1].repeat(3))
    assert shades.unique().numel() == 2
