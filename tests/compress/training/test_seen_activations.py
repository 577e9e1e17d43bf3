"""Activations that a training sees rounded: the values, the ranges, and ways that differ."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from edgekit.compress.training.objective import label_objective
from edgekit.compress.training.seen_activations import round_activations
from edgekit.compress.training.train import train
from edgekit.compress.training.update import NotFiniteError, Updater
from edgekit.core.errors import StepError
from edgekit.core.steps import Rounding, Train
from edgekit.graph.ranges import fingerprint
from tests.compress.benches import (
    SILENT,
    TinyCnn,
    bench_of,
    cnn_bench,
    fit,
    seeded,
    transformer_bench,
)

STATIC = Rounding(precision="int4", activations="static")
LSQ = Rounding(precision="int4", activations="static", method="lsq")
POINTS = 9


def rounded(bench, settings=LSQ):
    return round_activations(bench.model, bench.model, bench, settings)


def by_hand(model, image, bounds):
    """TinyCnn's own forward with torch's fake quantization where the artifact has integers."""
    places = iter(bounds)

    def see(value):
        low, high = next(places)
        step = (high - low) / 255
        return torch.fake_quantize_per_tensor_affine(value, step, round(-low / step), 0, 255)

    stem = see(functional.relu(model.stem_norm(model.stem(see(image)))))
    inner = see(functional.relu(model.first_norm(model.first(stem))))
    block = see(functional.relu(see(model.second_norm(model.second(inner))) + stem))
    late = see(functional.relu(model.pointwise(see(model.depthwise(block)))))
    return see(model.classifier(see(late.mean(dim=(2, 3)))))


@pytest.fixture
def image():
    return torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("settings", [STATIC, LSQ])
def test_a_model_computes_what_a_forward_by_hand_does(settings, digits, tmp_path, image):
    bench = cnn_bench(digits, tmp_path)
    seen = rounded(bench, settings)
    with seen.showing(), torch.no_grad():
        found = bench.model(image)
    with torch.no_grad():
        expected = by_hand(bench.model, image, seen.ranges.bounds())
        assert not torch.equal(bench.model(image), found)  # nothing is left behind
    assert torch.allclose(found, expected, atol=1e-6)


def test_ranges_begin_where_the_data_are(digits, tmp_path):
    bench = cnn_bench(digits, tmp_path)
    bounds = rounded(bench).ranges.bounds()
    rows = next(iter(bench.calibration.batches(bench.calibration.count, ["image"])))
    low, high = float(rows["image"].min()), float(rows["image"].max())
    step = (high - low) / 255
    # A share of the range; its ends are whole steps.
    assert low - step <= bounds[0][0] < 0.4 * low
    assert 0.4 * high < bounds[0][1] <= high + step
    assert bounds[1][0] == 0  # what a ReLU gives


def test_learned_ranges_move_with_the_loss_and_come_back_with_the_training(digits, tmp_path):
    bench = cnn_bench(digits, tmp_path)
    first = rounded(bench).ranges.bounds()
    settings = Train(epochs=1, learning_rate=1e-2, rounding=LSQ)
    trained = train(bench.model, label_objective(bench), bench, settings, SILENT)
    assert len(trained.ranges) == POINTS
    pairs = zip(trained.ranges, first, strict=True)
    moved = [abs(item.high - high) / high for item, (_, high) in pairs]
    assert min(moved) > 0
    assert max(moved) > 0.01
    assert all(item.low == 0 for item in trained.ranges if "relu" in item.point)


def test_the_score_is_that_of_rounded_weights_and_activations(digits, tmp_path):
    bench = bench_of(fit(seeded(TinyCnn), digits, epochs=2), digits, tmp_path)
    settings = Train(epochs=1, learning_rate=3e-3, rounding=LSQ)
    trained = train(bench.model, label_objective(bench), bench, settings, SILENT)
    rows = next(iter(bench.selection.batches(400, ["image", "target"])))
    bounds = [(item.low, item.high) for item in trained.ranges]
    with torch.no_grad():
        scores = by_hand(bench.model, torch.from_numpy(rows["image"]), bounds)
    found = scores.argmax(dim=1).numpy() == rows["target"]
    assert trained.score == pytest.approx(float(np.mean(found)))


def test_told_ranges_say_what_each_point_holds_as_floats(digits, tmp_path):
    bench = cnn_bench(digits, tmp_path)
    settings = Train(epochs=1, rounding=LSQ)
    trained = train(bench.model, label_objective(bench), bench, settings, SILENT)
    rows = next(iter(bench.calibration.batches(2, ["image"])))
    model, told = bench.model, {item.point: item.prints for item in trained.ranges}
    with torch.no_grad():
        for number in range(2):
            image = torch.from_numpy(rows["image"][number : number + 1])
            stem = functional.relu(model.stem_norm(model.stem(image)))
            for name, value in (("model input", image), ("model relu", stem)):
                expected = fingerprint(value.numpy())
                assert told[name][number].count == expected.count
                assert told[name][number].mean == pytest.approx(expected.mean, abs=1e-6)
                assert told[name][number].square == pytest.approx(expected.square, rel=1e-5)


def test_moving_ranges_follow_the_batches_by_a_hundredth(digits, tmp_path, image):
    bench = cnn_bench(digits, tmp_path)
    seen = rounded(bench, STATIC)
    low, high = (float(item[0]) for item in (seen.ranges.low, seen.ranges.high))
    bench.model.train()
    with seen.showing(), torch.no_grad():
        bench.model(image)
    assert float(seen.ranges.low[0]) == pytest.approx(0.99 * low + 0.01 * float(image.min()))
    assert float(seen.ranges.high[0]) == pytest.approx(0.99 * high + 0.01 * float(image.max()))
    bench.model.eval()
    before = seen.ranges.high.clone()
    with seen.showing(), torch.no_grad():
        bench.model(image)
    assert torch.equal(seen.ranges.high, before)


def test_symmetric_ranges_are_as_long_on_both_sides(digits, tmp_path):
    settings = Rounding(
        precision="int8", activations="static", method="lsq", has_symmetric_activations=True
    )
    bench = cnn_bench(digits, tmp_path)
    trained = train(
        bench.model,
        label_objective(bench),
        bench,
        Train(epochs=1, rounding=settings),
        SILENT,
    )
    assert all(item.low == -item.high for item in trained.ranges)


def test_a_transformer_trains_with_rounded_activations(digits, tmp_path):
    bench = transformer_bench(digits, tmp_path)
    settings = Train(epochs=1, learning_rate=3e-3, rounding=LSQ)
    trained = train(bench.model, label_objective(bench), bench, settings, SILENT)
    assert trained.score > trained.points[0].score
    assert len(trained.ranges) > 20


# What is refused or left.


class Wandering(TinyCnn):
    """Skips its inner block while it is trained."""

    def forward(self, image):
        stem = functional.relu(self.stem_norm(self.stem(image)))
        if not self.training:
            stem = functional.relu(self.first_norm(self.first(stem)))
        return self.classifier(functional.relu(self.pointwise(stem)).mean(dim=(2, 3)))


def test_a_way_that_differs_in_training_is_refused(digits, tmp_path):
    bench = bench_of(seeded(Wandering), digits, tmp_path)
    settings = Train(epochs=1, rounding=LSQ)
    with pytest.raises(StepError, match=r"called relu 2 times, and 3 times on the example"):
        train(bench.model, label_objective(bench), bench, settings, SILENT)


def test_a_model_without_such_functions_is_refused(digits, tmp_path):
    class Looking(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(1, 1)

        def forward(self, image):
            return image.exp().log()

    bench = bench_of(Looking(), digits, tmp_path, call=lambda m, x: {"scores": m(x["image"])})
    with pytest.raises(StepError, match="there is no activation to round"):
        rounded(bench)


def test_points_that_hold_zeros_or_masks_are_left_and_named(digits, tmp_path):
    class Masking(TinyCnn):
        def forward(self, image):
            masked = image * -1e9
            dead = functional.relu(image.abs() * -1.0)
            return super().forward(image) + masked.mean() * 0 + dead.mean()

    bench = bench_of(seeded(Masking), digits, tmp_path)
    left = [str(place) for place in rounded(bench).left]
    assert {"model mul", "model relu"} < set(left)
    assert "as they are: model mul" in rounded(bench).summary


def test_values_that_are_not_finite_are_refused_by_name(digits, tmp_path):
    class Broken(TinyCnn):
        def forward(self, image):
            return super().forward(image / 0)

    bench = bench_of(seeded(Broken), digits, tmp_path)
    with pytest.raises(StepError, match=r"'model __truediv__' takes values from nan|'model .*inf"):
        rounded(bench)


def test_a_step_that_falls_to_nothing_is_refused_with_its_name(digits, tmp_path):
    from edgekit.compress.training.rounding import make_rounder

    bench = cnn_bench(digits, tmp_path)
    rounder = make_rounder(bench.model, LSQ, bench.call, bench.example())
    rounder = rounder.with_activations(rounded(bench))
    settings = Train(learning_rate=1e-3)
    cpu = torch.device("cpu")
    updater = Updater(bench.model, settings, {}, device=cpu, steps=10, rounder=rounder)
    with torch.no_grad():
        rounder.activations.ranges.ratio[1] = 1e-4
    with pytest.raises(NotFiniteError, match="activations at 'model relu' fell to"):
        updater.step(lambda: bench.model(torch.zeros(2, 1, 8, 8)).square().mean(), 0)


def test_a_clip_never_ends_past_its_bound(digits, tmp_path):
    class Clipped(TinyCnn):
        def forward(self, image):
            stem = functional.relu6(self.stem_norm(self.stem(image)))
            return self.classifier(self.pointwise(stem).mean(dim=(2, 3)))

    bench = bench_of(seeded(Clipped), digits, tmp_path)
    ranges = rounded(bench).ranges
    with torch.no_grad():
        ranges.ratio.fill_(100.0)
    ranges.settle_()
    bounds = zip(ranges.places, ranges.bounds(), strict=True)
    ends = {str(place): high for place, (_, high) in bounds}
    assert ends["model relu6"] <= 6.0 + 1e-5
    assert ends["classifier linear"] > 6.0


def test_copies_of_a_model_are_not_followed(digits, tmp_path, image):
    bench = cnn_bench(digits, tmp_path)
    seen = rounded(bench)
    other = copy.deepcopy(bench.model)
    with torch.no_grad():
        expected = other(image)
        with seen.showing():
            assert torch.equal(other(image), expected)
