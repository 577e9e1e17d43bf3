"""Which weights take part in unstructured pruning."""

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from edgekit.compress.sparsity.sparse_layers import participants
from edgekit.core.errors import StepError
from tests.compress.benches import TinyCnn, TinyTransformer


class Zoo(nn.Module):
    """One layer of each kind that has weights."""

    def __init__(self):
        super().__init__()
        self.tokens = nn.Embedding(20, 8)
        self.places = nn.Parameter(torch.randn(4, 8))
        self.attention = nn.MultiheadAttention(8, 2)
        self.recurrent = nn.LSTM(8, 12)
        self.turned = Conv1D(16, 8)
        self.conv = nn.Conv2d(4, 8, 3)
        self.up = nn.ConvTranspose2d(8, 4, 2)
        self.volume = nn.Conv3d(4, 8, 3)
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, 20)


def test_every_kind_of_weight_takes_part_and_nothing_else():
    found = participants(Zoo())
    assert {item.name for item in found.weights} == {
        "tokens.weight",
        "attention.in_proj_weight",
        "attention.out_proj.weight",
        "recurrent.weight_ih_l0",
        "recurrent.weight_hh_l0",
        "turned.weight",
        "conv.weight",
        "up.weight",
        "volume.weight",
        "head.weight",
    }
    assert found.dense == {"places": "what a Zoo does with it is not known"}


def test_only_plain_linear_maps_can_be_weighed_by_their_inputs():
    unmapped = {item.name for item in participants(Zoo()).weights if item.why_unmapped}
    assert unmapped == {
        "tokens.weight",
        "attention.in_proj_weight",
        "recurrent.weight_ih_l0",
        "recurrent.weight_hh_l0",
        "up.weight",
        "volume.weight",
    }


def test_a_subclass_that_computes_in_its_own_way_is_not_weighed():
    class Scaled(nn.Linear):
        def forward(self, given):
            return 2 * super().forward(given.flip(-1))

    (weight,) = participants(nn.Sequential(Scaled(4, 4))).weights
    assert "a way of their own" in weight.why_unmapped


@pytest.mark.parametrize("name", ["conv.weight", "up.weight", "turned.weight", "volume.weight"])
def test_a_matrix_has_a_row_for_each_output_and_comes_back_as_it_was(name):
    weight = next(item for item in participants(Zoo()).weights if item.name == name)
    matrix = weight.matrix(weight.parameter)
    rows = {"conv.weight": 8, "up.weight": 4, "turned.weight": 16, "volume.weight": 8}[name]
    assert matrix.shape[0] == rows
    assert torch.equal(weight.restored(matrix), weight.parameter)


def test_neighbours_in_a_row_are_the_channels_of_one_tap():
    conv = nn.Conv2d(4, 2, 3)
    (weight,) = participants(conv).weights
    matrix = weight.matrix(conv.weight)
    assert torch.equal(matrix[1, :4], conv.weight[1, :, 0, 0])
    assert torch.equal(matrix[1, 4:8], conv.weight[1, :, 0, 1])


def test_layers_whose_inputs_are_no_whole_groups_stay_dense():
    found = participants(TinyCnn(), group=4)
    assert set(found.dense) == {"stem.weight", "depthwise.weight"}
    assert "1 inputs are no whole groups of 4" in found.dense["stem.weight"]


def test_a_shared_weight_takes_part_once_under_its_first_name():
    model = nn.ModuleDict({"tokens": nn.Embedding(20, 8), "head": nn.Linear(8, 20, bias=False)})
    model["head"].weight = model["tokens"].weight
    (weight,) = participants(model).weights
    assert weight.name == "tokens.weight"
    assert "shared with 'head'" in weight.why_unmapped


def test_ignoring_either_place_of_a_shared_weight_leaves_it_dense():
    model = nn.ModuleDict({"tokens": nn.Embedding(20, 8), "head": nn.Linear(8, 20, bias=False)})
    model["head"].weight = model["tokens"].weight
    model["other"] = nn.Linear(8, 8)
    for pattern in ("^head$", "^tokens$"):
        assert [item.name for item in participants(model, [pattern]).weights] == ["other.weight"]


def test_ignored_layers_are_named_with_the_reason():
    found = participants(TinyTransformer(), ["classifier", r"layers\.0"])
    assert found.dense["classifier.weight"] == "the settings say so (ignore)"
    assert not any(item.name.startswith("layers.0") for item in found.weights)


def test_a_pattern_that_matches_nothing_gets_the_nearest_names():
    with pytest.raises(StepError, match=r"'clasifier' matches no layer.*'classifier'"):
        participants(TinyTransformer(), ["clasifier"])


def test_a_model_in_which_nothing_is_left_is_refused_with_the_reasons():
    with pytest.raises(StepError, match=r"no weight takes part.*ignore"):
        participants(nn.Sequential(nn.Linear(2, 2)), ["0"])
    with pytest.raises(StepError, match="nothing to do"):
        participants(nn.ReLU())


def test_weights_that_are_not_finite_are_refused_by_name():
    model = nn.Sequential(nn.Linear(2, 2))
    model[0].weight.data[0, 0] = torch.nan
    with pytest.raises(StepError, match=r"'0\.weight' has NaN"):
        participants(model)


def test_a_computed_weight_stays_dense():
    model = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)), nn.Linear(4, 4))
    found = participants(model)
    assert [item.name for item in found.weights] == ["1.weight"]
    assert len(found.dense) == 2
