"""The step "sparsify" on real models: zeros, masks, rounds, honesty, bad input."""

import copy
import json

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from edgekit.compress.masks import bake_masks, require_zeros
from edgekit.compress.sparsity.sparsify import sparsify
from edgekit.compress.state import load_state, save_state
from edgekit.compress.training.objective import label_objective
from edgekit.compress.training.train import train
from edgekit.core.codec import to_plain
from edgekit.core.errors import StepError
from edgekit.core.progress import Event, Reporter
from edgekit.core.steps import Sparsify, Train
from tests.compress.benches import SILENT, bench_of

SGD = Train(
    epochs=2, batch_size=128, optimizer="sgd", learning_rate=0.02, weight_decay=1e-2, ema_decay=0.9
)


@pytest.fixture(params=["mlp", "cnn", "transformer"])
def fitted(request):
    """Each of the small trained models."""
    return request.getfixturevalue(f"fitted_{request.param}")


@pytest.mark.parametrize("method", ["magnitude", "wanda", "sparsegpt"])
def test_the_share_that_was_asked_for_is_zero_and_masked(fitted, method, digits, checkpoints):
    bench = bench_of(fitted, digits, checkpoints)
    result = sparsify(Sparsify(method=method, sparsity_ratio=0.6), bench, SILENT)
    weights = [result.model.get_parameter(name) for name in result.values["layers"]]
    zeros = sum(int((item == 0).sum()) for item in weights)
    total = sum(item.numel() for item in weights)
    assert zeros == pytest.approx(0.6 * total, abs=len(weights))
    assert zeros == sum(int((~keeps).sum()) for keeps in result.masks.values())
    require_zeros(result.model, result.masks)
    assert not result.model.training


@pytest.mark.parametrize("method", ["magnitude", "wanda", "sparsegpt"])
@pytest.mark.parametrize(("pattern", "kept", "group"), [("2:4", 2, 4), ("1:8", 1, 8)])
def test_every_group_of_inputs_keeps_so_many(
    fitted, method, pattern, kept, group, digits, checkpoints
):
    bench = bench_of(fitted, digits, checkpoints)
    result = sparsify(Sparsify(method=method, pattern=pattern), bench, SILENT)
    assert len(result.masks) >= 3
    for name, keeps in result.masks.items():
        # Inputs are the second axis of all three models' weights: channels, at each tap alike.
        groups = keeps.movedim(1, -1).reshape(-1, group)
        assert (groups.sum(dim=1) == kept).all(), name
    require_zeros(result.model, result.masks)


@pytest.mark.parametrize("method", ["magnitude", "sparsegpt", "rigl"])
def test_the_same_seed_gives_the_same_weights(method, digits, fitted_cnn, tmp_path):
    settings = Sparsify(method=method, sparsity_ratio=0.7, recover=Train(epochs=1))
    results = []
    for name in ("one", "two"):
        torch.rand(7 if name == "two" else 3)  # what others draw does not matter
        bench = bench_of(copy.deepcopy(fitted_cnn), digits, tmp_path / name, seed=5)
        results.append(sparsify(settings, bench, SILENT))
    one, two = results
    for name, value in one.model.state_dict().items():
        assert torch.equal(value, two.model.state_dict()[name]), name
    assert [item.score for item in one.points] == [item.score for item in two.points]


@pytest.mark.parametrize("model", ["cnn", "transformer"])
def test_zeros_are_exact_through_momentum_decay_and_average(model, request, digits, checkpoints):
    bench = bench_of(request.getfixturevalue(f"fitted_{model}"), digits, checkpoints)
    settings = Sparsify(sparsity_ratio=0.7, recover=SGD)
    result = sparsify(settings, bench, SILENT)
    for name, keeps in result.masks.items():
        weight = result.model.get_parameter(name)
        assert torch.equal(weight == 0, ~keeps), name
        # Bit for bit: no negative zero either, which would be another byte in the file.
        assert not torch.signbit(weight[~keeps]).any()
    assert len(result.points) == 4
    assert sum(item.is_kept for item in result.points) == 1


def test_masks_of_before_stay_and_count(digits, fitted_mlp, checkpoints):
    keeps = torch.ones(48, 64, dtype=torch.bool)
    keeps[::2] = False
    bias = torch.ones(10, dtype=torch.bool)
    bias[3] = False
    given = {"layers.1.weight": keeps, "layers.5.bias": bias}
    bench = bench_of(fitted_mlp, digits, checkpoints, masks=given)
    result = sparsify(Sparsify(sparsity_ratio=0.7, recover=SGD), bench, SILENT)
    assert not result.masks["layers.1.weight"][::2].any()
    assert int((~result.masks["layers.1.weight"]).sum()) == round(0.7 * 48 * 64)
    assert result.model.get_parameter("layers.5.bias")[3] == 0
    assert torch.equal(result.masks["layers.5.bias"], bias)
    assert result.values["zeros_before"] == 24 * 64


@pytest.mark.parametrize("method", ["magnitude", "wanda", "sparsegpt"])
def test_a_model_pruned_with_torch_is_pruned_further(method, digits, fitted_mlp, checkpoints):
    for index in (1, 3):
        prune.l1_unstructured(fitted_mlp.layers[index], "weight", amount=0.3)
    masks = bake_masks(fitted_mlp)
    bench = bench_of(fitted_mlp, digits, checkpoints, masks=masks)
    result = sparsify(Sparsify(method=method, sparsity_ratio=0.6), bench, SILENT)
    for name, before in masks.items():
        assert not (result.masks[name] & ~before).any()
        share = float((~result.masks[name]).double().mean())
        assert share == pytest.approx(0.6, abs=0.03)  # Wanda's rows round one by one


def test_training_keeps_the_masks_of_the_bench_unless_it_is_given_others(
    digits, fitted_mlp, checkpoints
):
    keeps = torch.ones(48, 64, dtype=torch.bool)
    keeps[:, ::2] = False
    bench = bench_of(fitted_mlp, digits, checkpoints, masks={"layers.1.weight": keeps})
    weight = fitted_mlp.layers[1].weight
    train(bench.model, label_objective(bench), bench, SGD, SILENT, name="kept")
    assert not weight[~keeps].any()
    train(bench.model, label_objective(bench), bench, SGD, SILENT, masks={}, name="free")
    assert weight[~keeps].any()


def test_a_retraining_goes_through_the_disk_with_its_zeros(digits, fitted_cnn, checkpoints):
    base = copy.deepcopy(fitted_cnn)
    result = sparsify(Sparsify(recover=SGD), bench_of(fitted_cnn, digits, checkpoints), SILENT)
    folder = checkpoints / "state"
    folder.mkdir()
    save_state(result.model, base, folder, result.masks)
    loaded = load_state(base, folder)
    assert loaded.masks.keys() == result.masks.keys()
    require_zeros(loaded.model, loaded.masks)
    for name, keeps in loaded.masks.items():
        assert torch.equal(loaded.model.get_parameter(name) == 0, ~keeps)


def test_rounds_follow_the_cubic_schedule_and_each_is_trained(digits, fitted_mlp, checkpoints):
    bench = bench_of(fitted_mlp, digits, checkpoints)
    settings = Sparsify(sparsity_ratio=0.8, iterations=3, recover=Train(epochs=4))
    result = sparsify(settings, bench, SILENT)
    # 0.8 * (1 - (1 - t/3)^3), and 4 epochs shared by 3 rounds
    assert [item.name for item in result.points] == [
        "as it came",
        "round 1, 56.3% zeros",
        "recover-1 epoch 1",
        "round 2, 77.0% zeros",
        "recover-2 epoch 1",
        "round 3, 80.0% zeros",
        "recover-3 epoch 1",
        "recover-3 epoch 2",
    ]
    assert sum(item.is_kept for item in result.points) == 1
    assert result.points.index(next(item for item in result.points if item.is_kept)) >= 5
    assert result.values["zeros_ratio"] == pytest.approx(0.8, abs=1e-3)


def test_it_stops_at_the_last_round_inside_the_limit(digits, fitted_mlp, checkpoints):
    bench = bench_of(fitted_mlp, digits, checkpoints, drop_limit=5.0)  # points
    settings = Sparsify(sparsity_ratio=0.99, iterations=4, schedule="linear", is_within_limit=True)
    said: list[Event] = []
    result = sparsify(settings, bench, Reporter(stage="sparsify", listener=said.append))
    scores = [item.score for item in result.points]
    kept = [item.is_kept for item in result.points].index(True)
    assert scores[kept] >= scores[0] - 0.05 > scores[-1]
    assert kept == len(scores) - 2  # the one outside is on record
    share = 0.99 * kept / 4
    assert result.values["zeros_ratio"] == pytest.approx(share, abs=1e-3)
    assert any(f"stopped before round {kept + 1}" in event.message for event in said)
    require_zeros(result.model, result.masks)


def test_a_first_round_outside_the_limit_is_an_error(digits, fitted_mlp, checkpoints):
    bench = bench_of(fitted_mlp, digits, checkpoints, drop_limit=1.0)
    with pytest.raises(StepError, match=r"99\.0% zeros lose more.*limit of 1 allows"):
        sparsify(Sparsify(sparsity_ratio=0.99, is_within_limit=True), bench, SILENT)


def test_the_report_says_what_zeros_buy_and_claims_no_speed(digits, fitted_cnn, checkpoints):
    bench = bench_of(fitted_cnn, digits, checkpoints)
    values = sparsify(Sparsify(sparsity_ratio=0.8), bench, SILENT).values
    sizes = values["zlib_bytes"]
    assert sizes["float32_after"] < 0.4 * sizes["float32_before"]
    assert sizes["int8_after"] < 0.6 * sizes["int8_before"]
    assert "no speed is claimed" in values["buys"]
    assert values["layers"]["first.weight"] == {
        "weights": 2304,
        "zeros": 1843,
        "zeros_before": 0,
        "zeros_ratio": 1843 / 2304,
        "method": "magnitude",
    }
    assert values["zeros"] == sum(item["zeros"] for item in values["layers"].values())
    assert values["zeros_ratio_of_model"] < values["zeros_ratio"] == pytest.approx(0.8, abs=1e-3)
    json.dumps(to_plain(values), allow_nan=False)


def test_what_a_method_cannot_weigh_is_pruned_by_size_and_named(digits, checkpoints):
    class Reader(nn.Module):
        def __init__(self):
            super().__init__()
            self.tokens = nn.Embedding(17, 16)
            self.attention = nn.MultiheadAttention(16, 4, batch_first=True)
            self.head = nn.Linear(16, 10)

        def forward(self, image):
            ids = (image.flatten(1).clamp(-1, 3) * 4 + 4).round().long()
            tokens = self.tokens(ids)
            mixed, _ = self.attention(tokens, tokens, tokens, need_weights=False)
            return self.head(mixed.mean(dim=1))

    bench = bench_of(Reader().eval(), digits, checkpoints)
    said: list[Event] = []
    reporter = Reporter(stage="sparsify", listener=said.append)
    result = sparsify(Sparsify(method="sparsegpt"), bench, reporter)
    reasons = result.values["by_magnitude"]
    assert reasons.keys() == {
        "tokens.weight",
        "attention.in_proj_weight",
        "attention.out_proj.weight",
    }
    assert "does not call" in reasons["attention.out_proj.weight"]
    assert result.values["layers"]["head.weight"]["method"] == "sparsegpt"
    for name in reasons:
        assert result.values["layers"][name]["method"] == "magnitude"
        assert any(event.message.startswith(name) for event in said if event.kind == "note")
        before = bench.teacher.get_parameter(name)
        after = result.model.get_parameter(name)
        keeps = result.masks[name]
        assert torch.equal(after[keeps], before[keeps])
        assert before[keeps].abs().min() >= before[~keeps].abs().max()


def test_layers_compete_only_where_they_are_told_to(digits, fitted_cnn, tmp_path):
    def shares(scope):
        bench = bench_of(copy.deepcopy(fitted_cnn), digits, tmp_path / scope)
        values = sparsify(Sparsify(sparsity_ratio=0.7, scope=scope), bench, SILENT).values
        assert values["zeros_ratio"] == pytest.approx(0.7, abs=1e-3)
        return {name: item["zeros_ratio"] for name, item in values["layers"].items()}

    assert shares("layer").values() == pytest.approx([0.7] * 6, abs=0.01)
    assert max(shares("global").values()) - min(shares("global").values()) > 0.1
    # The stem has (16 + 1 + 3 + 3) / 144 against (16 + 16 + 3 + 3) / 2304 of a block's density.
    assert shares("erk")["stem.weight"] == 0.0
    assert shares("erk")["first.weight"] > 0.7


def test_ignored_layers_stay_as_they_were(digits, fitted_cnn, checkpoints):
    before = copy.deepcopy(fitted_cnn)
    settings = Sparsify(sparsity_ratio=0.9, ignore=("^classifier$", "^stem$"))
    result = sparsify(settings, bench_of(fitted_cnn, digits, checkpoints), SILENT)
    for name in ("classifier.weight", "stem.weight"):
        assert torch.equal(result.model.get_parameter(name), before.get_parameter(name))
        assert result.values["dense"][name] == "the settings say so (ignore)"


def test_a_step_that_adds_no_zero_is_an_error(digits, fitted_mlp, checkpoints):
    bench = bench_of(fitted_mlp, digits, checkpoints)
    first = sparsify(Sparsify(sparsity_ratio=0.6), bench, SILENT)
    again = bench_of(first.model, digits, checkpoints, masks=first.masks)
    with pytest.raises(StepError, match=r"no zero was added: 3513 of 5856.*0\.4"):
        sparsify(Sparsify(sparsity_ratio=0.4), again, SILENT)


def test_training_without_data_is_refused(digits, fitted_mlp, checkpoints):
    bench = bench_of(fitted_mlp, digits, checkpoints, training=None)
    with pytest.raises(StepError, match="no training data"):
        sparsify(Sparsify(recover=Train(epochs=1)), bench, SILENT)


def test_a_limit_that_is_not_there_is_refused(digits, fitted_mlp, checkpoints):
    bench = bench_of(fitted_mlp, digits, checkpoints)
    with pytest.raises(StepError, match="no limit to keep"):
        sparsify(Sparsify(is_within_limit=True), bench, SILENT)


def test_a_pattern_of_layers_that_matches_nothing_is_refused(digits, fitted_cnn, checkpoints):
    bench = bench_of(fitted_cnn, digits, checkpoints)
    with pytest.raises(StepError, match=r"'clasifier' matches no layer.*'classifier'"):
        sparsify(Sparsify(ignore=("clasifier",)), bench, SILENT)


def test_second_order_keeps_more_of_the_metric_than_size_alone(digits, fitted_mlp, tmp_path):
    scores = {}
    for method in ("magnitude", "sparsegpt"):
        bench = bench_of(copy.deepcopy(fitted_mlp), digits, tmp_path / method)
        settings = Sparsify(method=method, sparsity_ratio=0.85)
        scores[method] = sparsify(settings, bench, SILENT).points[-1].score
    assert scores["sparsegpt"] > scores["magnitude"] + 0.05
