"""What follows a layer, on models whose code says it."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from edgekit.compress.quantization.readers import find_behind
from tests.compress.benches import TinyCnn, TinyTransformer, call, seeded

IMAGE = {"image": torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))}


def found(model):
    weights = {
        path: module.weight
        for path, module in model.named_modules()
        if isinstance(module, (nn.Conv2d, nn.Linear))
    }
    return find_behind(model.eval(), weights, call, IMAGE)


def test_norms_and_activation_functions_of_a_cnn_are_found():
    behind = found(seeded(TinyCnn))
    has = {path: (it.norm is not None, it.activation is not None) for path, it in behind.items()}
    assert has == {
        "stem": (True, True),
        "first": (True, True),
        "second": (True, False),  # a sum comes before its ReLU
        "depthwise": (False, False),
        "pointwise": (False, True),
        "classifier": (False, False),
    }
    assert all(item.calls == 1 for item in behind.values())


def test_the_norm_is_the_models_own_and_its_factors_are_torchs():
    model = seeded(TinyCnn)
    model.train()(torch.rand(32, 8, 8)[:, None])  # statistics that are not 0 and 1
    norm = found(model)["first"].norm
    assert norm.mean is model.first_norm.running_mean
    factor, offset = norm.as_factors()
    values = torch.randn(2, 16, 3, 3)
    wanted = model.first_norm(values)
    computed = values * factor.view(1, -1, 1, 1) + offset.view(1, -1, 1, 1)
    assert torch.allclose(computed, wanted, atol=1e-5)


def test_gelu_behind_a_linear_layer_is_found_and_can_be_used_again():
    behind = found(seeded(TinyTransformer))
    values = torch.randn(5)
    assert torch.equal(behind["layers.0.ffn_in"].activation(values), functional.gelu(values))
    assert behind["layers.0.attention.out"].activation is None


class Net(nn.Module):
    """One convolution, its norm, and a way to go on."""

    def __init__(self, go_on):
        super().__init__()
        self.conv, self.norm, self.other = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(1, 4, 3)
        self.go_on = go_on

    def forward(self, image):
        return self.go_on(self, image)


def twice(self, image):
    given = self.conv(image)
    return torch.relu(self.norm(given)) + given


def shared_norm(self, image):
    return self.norm(self.conv(image)) + self.norm(self.other(image))


def called_twice(self, image):
    return torch.relu(self.conv(image)) + torch.relu(self.conv(image * 2))


def in_place(self, image):
    return torch.relu_(self.conv(image)) * 2


def changed_before(self, image):
    given = self.conv(image)
    given += 1
    return torch.relu(given)


def norm_read_twice(self, image):
    given = self.norm(self.conv(image))
    return torch.relu(given) + given


def as_output(self, image):
    return self.conv(image)


def shape_asked(self, image):
    given = self.conv(image)
    return torch.relu(given).reshape(given.shape[0], -1)


@pytest.mark.parametrize(
    ("go_on", "calls", "has_norm", "has_activation"),
    [
        (twice, 1, False, False),
        (shared_norm, 1, False, False),
        (called_twice, 2, False, False),
        (in_place, 1, False, True),
        (changed_before, 1, False, False),
        (norm_read_twice, 1, True, False),
        (as_output, 1, False, False),
        (shape_asked, 1, False, True),
    ],
)
def test_only_what_alone_reads_a_layer_counts(go_on, calls, has_norm, has_activation):
    behind = found(Net(go_on))["conv"]
    assert behind.calls == calls
    assert (behind.norm is not None, behind.activation is not None) == (has_norm, has_activation)


def test_a_function_in_place_leaves_what_it_is_used_on_again():
    activation = found(Net(in_place))["conv"].activation
    values = torch.tensor([-1.0, 2.0])
    assert activation(values).tolist() == [0, 2]
    assert values.tolist() == [-1, 2]
