"""The step "lora": training adapters beside frozen weights, and merging them."""

import copy
import json

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from edgekit.compress.judge import Judge
from edgekit.compress.low_rank.factorize import factorize
from edgekit.compress.low_rank.lora import LowRankChange, adaptable_layers, adapted, lora
from edgekit.compress.state import load_state, save_state
from edgekit.core.errors import StepError
from edgekit.core.steps import Factorize, Lora, Train
from tests.compress.benches import (
    SILENT,
    TinyCnn,
    TinyMlp,
    bench_of,
    cnn_bench,
    mlp_bench,
    seeded,
    transformer_bench,
)

QUICK = Train(epochs=2, learning_rate=5e-3, batch_size=64)


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def write_adapter(folder, layers: dict[str, tuple[Tensor, Tensor]], *, rank: int) -> str:
    """An adapter in PEFT's format, written by hand."""
    folder.mkdir()
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": 3 * rank}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    tensors = {}
    for path, (up, down) in layers.items():
        tensors[f"base_model.model.{path}.lora_A.weight"] = down
        tensors[f"base_model.model.{path}.lora_B.weight"] = up
    save_file(tensors, folder / "adapter_model.safetensors")
    return str(folder)


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(3))


def test_adapters_change_only_the_layers_that_have_one(fitted_cnn, digits, checkpoints):
    before = weights(fitted_cnn)
    bench = bench_of(fitted_cnn, digits, checkpoints)
    result = lora(Lora(targets=("pointwise",), train=QUICK), bench, SILENT)
    after = weights(result.model)
    assert after.keys() == before.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"pointwise.weight"}
    assert result.values["adapters"] == {"pointwise": 8}


def test_the_change_has_the_rank_that_was_asked_for(fitted_mlp, digits, checkpoints):
    before = fitted_mlp.layers[3].weight.detach().clone()
    bench = bench_of(fitted_mlp, digits, checkpoints)
    settings = Lora(rank=3, targets=(r"layers\.3",), train=QUICK)
    change = lora(settings, bench, SILENT).model.layers[3].weight.detach() - before
    values = torch.linalg.svdvals(change.double())
    assert values[2] > 1e-3 * values[0]
    assert values[3] < 1e-5 * values[0]


def test_nothing_of_the_adapters_stays(fitted_cnn, digits, checkpoints, tmp_path):
    base = copy.deepcopy(fitted_cnn)
    bench = bench_of(fitted_cnn, digits, checkpoints)
    result = lora(Lora(train=QUICK), bench, SILENT)
    kinds = [type(module) for module in result.model.modules()]
    assert kinds == [type(module) for module in base.modules()]
    assert list(result.model.state_dict()) == list(base.state_dict())
    assert all(value.requires_grad for value in result.model.parameters())
    assert not result.model.training
    save_state(result.model, base, tmp_path)
    loaded = load_state(base, tmp_path).model
    images = torch.from_numpy(next(iter(digits.selection.batches(3)))["image"])
    assert torch.equal(loaded(images), result.model(images))


def test_statistics_of_batch_norms_stay(fitted_cnn, digits, checkpoints):
    for module in fitted_cnn.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.affine, module.weight, module.bias = False, None, None
    before = weights(fitted_cnn)
    bench = bench_of(fitted_cnn, digits, checkpoints)
    after = weights(lora(Lora(train=QUICK), bench, SILENT).model)
    for name, value in before.items():
        assert torch.equal(after[name], value) == ("norm" in name or name in UNADAPTED), name


# Kernels of more than one tap have none unless they are named; biases never.
UNADAPTED = {
    "stem.weight",
    "first.weight",
    "second.weight",
    "depthwise.weight",
    "pointwise.bias",
    "classifier.bias",
}


def test_the_merged_model_computes_what_the_unmerged_one_did(fitted_cnn, digits, checkpoints):
    bench = bench_of(fitted_cnn, digits, checkpoints)
    images = torch.from_numpy(next(iter(digits.selection.batches(16)))["image"])
    settings = Lora(targets=("pointwise", "classifier", "first"), rank=4)
    ranks, _ = adaptable_layers(fitted_cnn, settings)
    with torch.no_grad():
        before = fitted_cnn(images)
        with adapted(fitted_cnn, ranks, settings, bench):
            torch.testing.assert_close(fitted_cnn(images), before)  # B is zero
            for name, value in fitted_cnn.named_parameters():
                if value.requires_grad:
                    value.copy_(drawn(*value.shape) * 0.3)
                    assert name.endswith((".up", ".down"))
            unmerged = fitted_cnn(images)
        merged = fitted_cnn(images)
    assert not torch.allclose(unmerged, before, atol=0.1)
    torch.testing.assert_close(merged, unmerged, rtol=1e-4, atol=1e-5)


def test_a_failure_leaves_the_model_as_it_was(fitted_cnn, digits, checkpoints):
    before = weights(fitted_cnn)
    bench = bench_of(fitted_cnn, digits, checkpoints)
    settings = Lora()
    ranks, _ = adaptable_layers(fitted_cnn, settings)

    def spoil_and_fail() -> None:
        with adapted(fitted_cnn, ranks, settings, bench):
            with torch.no_grad():
                fitted_cnn.classifier.parametrizations.weight[0].up.fill_(9.0)
            raise StepError("lost")

    with pytest.raises(StepError, match="lost"):
        spoil_and_fail()
    after = weights(fitted_cnn)
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert all(value.requires_grad for value in fitted_cnn.parameters())


def test_a_change_is_scale_times_b_times_a_by_hand():
    weight = torch.zeros(2, 3)
    change = LowRankChange(weight, rank=1, scale=0.5, generator=torch.Generator())
    with torch.no_grad():
        change.down.copy_(torch.tensor([[1.0, 2.0, 3.0]]))
        change.up.copy_(torch.tensor([[4.0], [6.0]]))
    expected = torch.tensor([[2.0, 4.0, 6.0], [3.0, 6.0, 9.0]])
    assert torch.equal(change(weight), expected)


def test_a_change_begins_as_none_and_random_within_its_bound():
    change = LowRankChange(
        torch.ones(8, 16, 1, 1), rank=4, scale=2.0, generator=torch.Generator().manual_seed(0)
    )
    assert torch.equal(change(torch.ones(8, 16, 1, 1)), torch.ones(8, 16, 1, 1))
    # Uniform within 1 / sqrt(16): that far at most, and with a deviation of a 1 / sqrt(3) of it.
    assert change.down.abs().max() <= 0.25
    assert change.down.std().item() == pytest.approx(0.25 / 3**0.5, rel=0.2)


def test_training_wins_back_what_factors_lost(digits, checkpoints, fitted_mlp, tmp_path):
    teacher = copy.deepcopy(fitted_mlp)
    bench = bench_of(fitted_mlp, digits, checkpoints, teacher=teacher)
    thin = factorize(
        Factorize(ranks="ratio", ratio=0.1, ignore=(r"layers\.5",)), bench, SILENT
    ).model
    lost = Judge(bench).judge(thin).drop
    settings = Lora(rank=8, train=Train(epochs=4, learning_rate=5e-3, batch_size=64))
    again = bench_of(thin, digits, tmp_path / "lora", teacher=teacher)
    result = lora(settings, again, SILENT)
    assert Judge(again).judge(result.model).drop < lost
    kept = next(point for point in result.points if point.is_kept)
    assert kept.score == pytest.approx(Judge(again).score(result.model))
    assert kept.parameters == sum(value.numel() for value in thin.parameters())


def test_two_trainings_give_the_same_bits(digits, tmp_path, fitted_mlp):
    found = []
    for name in ("one", "other"):
        bench = bench_of(copy.deepcopy(fitted_mlp), digits, tmp_path / name)
        found.append(weights(lora(Lora(train=QUICK), bench, SILENT).model))
    assert all(torch.equal(found[0][name], value) for name, value in found[1].items())


def test_masked_weights_stay_zero(fitted_mlp, digits, checkpoints):
    mask = drawn(48, 48) > 0
    with torch.no_grad():
        fitted_mlp.layers[3].weight *= mask
    before = fitted_mlp.layers[3].weight.detach().clone()
    bench = bench_of(fitted_mlp, digits, checkpoints, masks={"layers.3.weight": mask})
    result = lora(Lora(train=QUICK), bench, SILENT)
    weight = result.model.layers[3].weight
    assert not weight[~mask].any()
    assert not torch.equal(weight, before)
    assert set(result.masks) == {"layers.3.weight"}


def test_labels_are_not_needed_where_the_teacher_says_all(digits, checkpoints, tmp_path):
    from edgekit.data.dataset import DatasetWriter, open_dataset

    with DatasetWriter(tmp_path / "bare") as writer:
        for rows in digits.training.batches(1, ["image"]):
            writer.append({"image": rows["image"][0]})
    bench = mlp_bench(
        digits,
        checkpoints,
        teacher=seeded(TinyMlp, seed=1),
        training=open_dataset(tmp_path / "bare"),
        metric="cosine",
    )
    result = lora(Lora(train=QUICK), bench, SILENT)
    assert result.points[-1].score > result.points[0].score


def test_an_adapter_that_never_helps_is_an_error(fitted_mlp, digits, checkpoints):
    bench = bench_of(fitted_mlp, digits, checkpoints)
    worse = Train(epochs=1, learning_rate=10.0, warmup_ratio=0.0, clip_norm=0.0)
    with pytest.raises(StepError, match=r"never bettered the metric.*rank .now 8"):
        lora(Lora(train=worse), bench, SILENT)


def test_training_without_data_is_refused(digits, checkpoints):
    bench = cnn_bench(digits, checkpoints, training=None)
    with pytest.raises(StepError, match="no training data"):
        lora(Lora(), bench, SILENT)


def test_targets_that_match_nothing_name_the_nearest(digits, checkpoints):
    bench = transformer_bench(digits, checkpoints)
    with pytest.raises(StepError, match=r"'attention_querry' matches no layer; the nearest.*query"):
        lora(Lora(targets=("attention_querry",)), bench, SILENT)


def test_tied_weights_have_no_adapter():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    found, left = adaptable_layers(model, Lora())
    assert found == {"2": 4}
    assert left == {"0": "its weight is that of '1' too", "1": "its weight is that of '0' too"}
    with pytest.raises(StepError, match="no layer can have an adapter: '0'"):
        adaptable_layers(model, Lora(targets=("^0$",)))


def test_by_default_linear_layers_and_pointwise_convolutions_have_one():
    found, _ = adaptable_layers(seeded(TinyCnn), Lora(rank=12))
    # No rank is above the smaller side: 32 -> 10 classes.
    assert found == {"pointwise": 12, "classifier": 10}


def test_an_adapter_of_the_users_is_merged(fitted_mlp, digits, checkpoints, tmp_path):
    up, down = drawn(48, 2), drawn(2, 48)
    folder = write_adapter(tmp_path / "adapter", {"layers.3": (up, down)}, rank=2)
    before = fitted_mlp.layers[3].weight.detach().clone()
    bench = bench_of(fitted_mlp, digits, checkpoints)
    result = lora(Lora(adapter=folder), bench, SILENT)
    torch.testing.assert_close(result.model.layers[3].weight.detach(), before + 3.0 * up @ down)
    assert result.values["merged"] == {"layers.3": {"rank": 2, "scale": 3.0}}
    assert [point.name for point in result.points] == ["as it came", "merged"]
    assert result.points[1].is_kept
    assert result.points[1].score == pytest.approx(Judge(bench).score(result.model))


def test_merging_trains_nothing_so_the_plan_runs_it_without_data():
    assert Lora(adapter="folder").train.epochs == 0
    assert Lora().train.epochs > 0


def test_merging_into_masked_weights_is_refused(fitted_mlp, digits, checkpoints, tmp_path):
    factors = (drawn(48, 2), drawn(2, 48))
    folder = write_adapter(tmp_path / "adapter", {"layers.3": factors}, rank=2)
    mask = torch.ones(48, 48, dtype=torch.bool)
    bench = bench_of(fitted_mlp, digits, checkpoints, masks={"layers.3.weight": mask})
    with pytest.raises(StepError, match=r"'layers.3.weight' has weights.*before sparsify"):
        lora(Lora(adapter=folder), bench, SILENT)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rank": 0}, "rank is 0"),
        ({"alpha": 0.0}, "alpha is 0.0"),
        ({"alpha": float("inf")}, "alpha is inf"),
        ({"teacher_weight": -0.1}, "teacher_weight is -0.1"),
        ({"targets": ("(",)}, "no regular expression"),
        ({"adapter": "x", "targets": ("a",)}, "leave one of the two out"),
        ({"train": Train(epochs=0)}, "nothing would change"),
    ],
)
def test_settings_outside_their_range_are_refused(values, message):
    with pytest.raises(StepError, match=message):
        Lora(**values)
