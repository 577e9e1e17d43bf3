"""Where activations are rounded, in models whose artifacts are known."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from edgekit.compress.training.activation_points import find_points
from tests.compress.benches import TinyCnn, TinyTransformer, call, seeded


def points_of(model, *inputs):
    example = {f"input_{number}": value for number, value in enumerate(inputs)}
    return find_points(model, model, call, example)


def names_of(model, *inputs):
    return [str(place) for place in points_of(model, *inputs).places]


def test_a_residual_net_is_rounded_where_its_artifact_is():
    assert names_of(seeded(TinyCnn), torch.randn(2, 1, 8, 8)) == [
        "model input",
        "model relu",
        "model relu 2",
        "second_norm batch_norm",
        "model relu 3",
        "depthwise conv2d",
        "model relu 4",
        "model mean",
        "classifier linear",
    ]


def test_a_transformer_is_rounded_around_its_products_and_norms():
    found = names_of(seeded(lambda: TinyTransformer(layers=1)), torch.randn(2, 1, 8, 8))
    assert "layers.0.attention_norm layer_norm" in found  # the projections read it
    assert "layers.0.attention.query linear" in found
    assert "layers.0.attention scaled_dot_product_attention" in found
    assert "layers.0 add" in found
    assert not [name for name in found if "view" in name or "transpose" in name]


class Layers(nn.Module):
    """A convolution and whatever a test does with it."""

    def __init__(self, then, *, inplace=False):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.act = nn.ReLU6(inplace=inplace)
        self.drop = nn.Dropout(0.5)
        self.then = then

    def forward(self, x):
        return self.then(self, x)


IMAGE = torch.randn(2, 1, 6, 6, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("inplace", [False, True])
def test_norm_and_activation_are_one_with_their_convolution(inplace):
    model = Layers(lambda m, x: m.act(m.norm(m.conv(x))), inplace=inplace).eval()
    assert names_of(model, IMAGE) == ["model input", "act hardtanh"]


def test_what_two_read_is_stored_and_so_is_what_an_output_shows():
    def twice(m, x):
        y = m.norm(m.conv(x))
        return m.act(y) + y

    def showing(m, x):
        y = m.conv(x)
        return {"y": y, "z": m.act(y)}

    both = Layers(twice).eval()
    assert names_of(both, IMAGE) == [
        "model input",
        "norm batch_norm",
        "act hardtanh",
        "model add",
    ]
    shown = Layers(showing).eval()
    assert names_of(shown, IMAGE) == ["model input", "conv conv2d", "act hardtanh"]


def test_what_only_moves_values_has_its_sources_grid():
    model = Layers(
        lambda m, x: m.drop(functional.max_pool2d(m.conv(x), 2).flatten(1)[:, ::2]).view(-1, 2)
    ).eval()
    assert names_of(model, IMAGE) == ["model input", "conv conv2d"]


def test_pieces_of_a_function_with_several_results_are_told_apart():
    class Attending(nn.Module):
        def __init__(self):
            super().__init__()
            self.mix = nn.MultiheadAttention(8, 2, batch_first=True)
            self.last = nn.Linear(8, 3)

        def forward(self, x):
            return self.last(self.mix(x, x, x)[0])

    # What the fused function computes inside is not seen; its products give floats to the layer.
    found = names_of(Attending().eval(), torch.randn(2, 5, 8))
    assert found[-1] == "last linear"
    assert all("multi_head" in name or name == "last linear" for name in found)


def test_weights_that_are_computed_are_no_activations():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight, self.scale = nn.Parameter(torch.ones(3, 4)), nn.Parameter(torch.ones(3, 1))

        def forward(self, x):
            return functional.linear(x, self.weight * self.scale)

    assert names_of(Scaled().eval(), torch.randn(2, 4)) == ["model input", "model linear"]


def test_a_norm_that_a_model_wrote_itself_stays_float_up_to_its_readers():
    class Normed(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(4, 4), nn.Linear(4, 2)
            self.weight = nn.Parameter(torch.ones(4))

        def forward(self, x):
            x = self.first(x)
            size = x.pow(2).mean(-1, keepdim=True) + 1e-6
            return self.last(self.weight * (x * torch.rsqrt(size))) / 2

    # The mean square is none of them; a division by a number is a product, and changes no grid.
    assert names_of(Normed().eval(), torch.randn(2, 4)) == [
        "model input",
        "first linear",
        "model mul 2",
        "last linear",
    ]


def test_numbers_of_tokens_are_no_activations():
    class Looking(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.last = nn.Embedding(7, 4), nn.Linear(4, 2)

        def forward(self, ids):
            return self.last(self.table(ids))

    found = names_of(Looking().eval(), torch.tensor([[1, 2]]))
    assert found == ["table embedding", "last linear"]


def test_what_is_read_past_an_in_place_function_is_left_and_named():
    def act(m, x):
        y = m.conv(x)
        m.act(y)  # what it returns is not used
        return y + y

    found = points_of(Layers(act, inplace=True).eval(), IMAGE)
    assert [str(place) for place in found.left] == ["act hardtanh"]
    assert [str(place) for place in found.places] == ["model input", "model add"]


def test_layers_that_run_twice_have_a_point_for_each_run():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x):
            return self.layer(self.layer(x))

    model = Twice().eval()
    found = points_of(model, torch.randn(2, 4))
    assert [str(item) for item in found.places][1:] == ["layer linear", "layer linear 2"]
    assert found.calls == {("layer", "linear"): 2}
    assert not model._forward_hooks
    assert not model._forward_pre_hooks
