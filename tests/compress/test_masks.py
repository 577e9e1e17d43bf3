"""Models that come with torch.nn.utils.prune masks."""

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from edgekit.compress.masks import bake_masks, copy_model, merged_masks, require_zeros
from edgekit.compress.state import load_state, save_state
from edgekit.core.errors import StepError


def masked():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    prune.l1_unstructured(model[0], "weight", amount=0.5)
    prune.random_unstructured(model[2], "bias", amount=1)
    prune.ln_structured(model[0], "weight", amount=0.25, n=2, dim=0)
    return model


def test_a_baked_model_gives_the_same_outputs_and_has_plain_weights():
    model = masked()
    inputs = torch.randn(5, 6)
    expected = model(inputs)
    plain = copy_model(model)
    masks = bake_masks(plain)
    assert torch.equal(plain(inputs), expected)
    assert set(dict(plain.named_parameters())) == {"0.weight", "0.bias", "2.weight", "2.bias"}
    assert set(masks) == {"0.weight", "2.bias"}


def test_a_copy_of_a_model_with_computed_weights_is_the_same_model():
    model = nn.utils.weight_norm(nn.Linear(4, 4))
    inputs = torch.randn(3, 4)
    expected = model(inputs)
    copied = copy_model(model)
    assert torch.equal(copied(inputs), expected)
    assert copied.weight_v is not model.weight_v


def test_the_masks_say_where_the_zeros_are():
    model = masked()
    wanted = model[0].weight_mask.bool()
    masks = bake_masks(model)
    assert torch.equal(masks["0.weight"], wanted)
    assert (model[0].weight[~wanted] == 0).all()
    assert int((~masks["2.bias"]).sum()) == 1


def test_a_model_without_masks_is_left_as_it_is():
    model = nn.Linear(2, 2)
    before = model.weight.clone()
    assert bake_masks(model) == {}
    assert torch.equal(model.weight, before)


def tied():
    model = nn.ModuleDict({"tokens": nn.Embedding(6, 4), "head": nn.Linear(4, 6, bias=False)})
    model["head"].weight = model["tokens"].weight
    return model


def test_masks_of_a_shared_weight_are_one_mask_under_its_first_name():
    model = tied()
    first, other = torch.ones(6, 4), torch.ones(6, 4)
    first[0], other[:, 0] = 0, 0
    prune.custom_from_mask(model["tokens"], "weight", first)
    prune.custom_from_mask(model["head"], "weight", other)
    masks = bake_masks(model)
    assert list(masks) == ["tokens.weight"]
    assert torch.equal(masks["tokens.weight"], (first * other).bool())
    assert model["head"].weight is model["tokens"].weight
    require_zeros(model, masks)


def test_a_module_that_uses_a_masked_weight_whole_keeps_it_whole():
    model = tied()
    inputs = torch.randn(3, 4)
    whole = model["head"](inputs)
    prune.l1_unstructured(model["tokens"], "weight", amount=0.5)
    table = model["tokens"](torch.arange(6))
    masks = bake_masks(model)
    assert torch.equal(model["head"](inputs), whole)
    assert torch.equal(model["tokens"](torch.arange(6)), table)
    assert list(masks) == ["tokens.weight"]
    require_zeros(model, masks)


def test_merged_masks_have_the_zeros_of_all():
    first = {"a": torch.tensor([True, True, False]), "b": torch.tensor([False])}
    other = {"a": torch.tensor([False, True, True]), "c": torch.tensor([True])}
    merged = merged_masks(first, other)
    assert merged["a"].tolist() == [False, True, False]
    assert merged["b"].tolist() == [False]
    assert merged["c"].tolist() == [True]


def test_a_model_that_broke_its_zeros_is_refused_by_name_and_number():
    model = nn.Linear(3, 2)
    keeps = torch.tensor([[True, False, True], [False, True, True]])
    with torch.no_grad():
        model.weight.masked_fill_(~keeps, 0.0)
    require_zeros(model, {"weight": keeps})
    with torch.no_grad():
        model.weight[0, 1] = 1e-30
    with pytest.raises(StepError, match=r"'weight': 1 of 2 weights"):
        require_zeros(model, {"weight": keeps})


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_masked_weight_that_is_not_finite_is_no_zero(bad):
    model = nn.Linear(2, 1)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, bad]]))
    with pytest.raises(StepError, match="1 of 1"):
        require_zeros(model, {"weight": torch.tensor([[True, False]])})


def test_masks_of_another_shape_or_name_are_refused():
    with pytest.raises(StepError, match="must change its mask alike"):
        require_zeros(nn.Linear(3, 2), {"weight": torch.ones(2, 4, dtype=torch.bool)})
    with pytest.raises(StepError, match="did you mean 'weight'"):
        require_zeros(nn.Linear(3, 2), {"weights": torch.ones(2, 3, dtype=torch.bool)})


def test_zeros_and_masks_come_back_from_disk(tmp_path):
    base = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    prune.l1_unstructured(base[0], "weight", amount=0.5)
    masks = bake_masks(base)
    model = copy_model(base)
    model[0].weight.data *= 2
    save_state(model, base, tmp_path, masks)
    loaded = load_state(base, tmp_path)
    assert torch.equal(loaded.masks["0.weight"], masks["0.weight"])
    assert torch.equal(loaded.model[0].weight == 0, ~masks["0.weight"])


def test_a_step_that_broke_its_zeros_is_not_written_down(tmp_path):
    base = nn.Sequential(nn.Linear(6, 8))
    masks = {"0.weight": torch.zeros(8, 6, dtype=torch.bool)}
    with pytest.raises(StepError, match="48 of 48"):
        save_state(copy_model(base), base, tmp_path, masks)
    assert list(tmp_path.iterdir()) == []
