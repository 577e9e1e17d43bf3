"""A rewritten graph computes what torch computed, and LiteRT takes it in the form that it likes."""

import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from edgekit.compile.litert_convert import convert_program
from edgekit.compile.litert_rewrite import rewrite_
from edgekit.graph.reader import read_graph
from edgekit.runtime.litert import LiteRtEngine

# Kernels sum in other orders: a few units in the last place of float32 for each layer.
TOLERANCE = 1e-5


class Apply(nn.Module):
    """A function between two convolutions: there litert-torch moves channels to the end."""

    def __init__(self, function):
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 3)
        self.function = function

    def forward(self, x):
        return self.last(self.function(self.first(x)))


def with_statistics(model):
    """The model with batch norms that have seen something, in evaluation mode."""
    for item in model.modules():
        if isinstance(item, nn.modules.batchnorm._BatchNorm):
            nn.init.normal_(item.running_mean)
            nn.init.uniform_(item.running_var, 0.5, 2.0)
            nn.init.uniform_(item.weight, -1.5, 1.5)
            nn.init.normal_(item.bias)
    return model.eval()


def converted(model, *shape):
    """The operators of the model's .tflite, and how far its output is from torch's."""
    torch.manual_seed(0)
    model = with_statistics(model)
    sample = torch.randn(shape)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        content = convert_program(torch.export.export(model, (sample,)), is_dynamic=False)
    engine = LiteRtEngine(content)
    with torch.no_grad():
        expected = model(sample).numpy()
    found = engine.run([sample.numpy()])[0]
    engine.close()
    operators = [item.name for item in read_graph(content, name="x").subgraphs[0].operators]
    return operators, float(np.abs(found - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Conv1d(4, 8, 3), (1, 4, 16)),
        (nn.Conv1d(4, 8, 3, bias=False, stride=2), (1, 4, 16)),
        (nn.Conv2d(4, 8, 3, groups=2), (1, 4, 8, 8)),
        (nn.ConvTranspose1d(4, 8, 4, 2), (1, 4, 16)),
        (nn.ConvTranspose2d(4, 8, 2, 2), (1, 4, 6, 6)),
        (nn.Linear(16, 8), (1, 16)),
    ],
    ids=lambda item: type(item).__name__ if isinstance(item, nn.Module) else "",
)
def test_batch_norm_goes_into_the_layer_before_it(layer, shape):
    norm = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d}[len(shape)](8)
    operators, error = converted(nn.Sequential(layer, norm), *shape)
    assert error < TOLERANCE
    assert not {"MUL", "SUB"} & set(operators)


def test_a_batch_norm_of_its_own_is_one_product_and_one_sum():
    operators, error = converted(Apply(nn.Sequential(nn.ReLU(), nn.BatchNorm2d(8))), 1, 3, 8, 8)
    assert error < TOLERANCE
    assert operators.count("MUL") == operators.count("ADD") == 1
    assert "SUB" not in operators


class Twice(nn.Module):
    """One convolution under two norms: neither may go into its weights."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv1d(4, 4, 3, padding=1)
        self.one, self.two = nn.BatchNorm1d(4), nn.BatchNorm1d(4)

    def forward(self, x):
        return self.two(self.layer(self.one(self.layer(x))))


def test_a_layer_that_is_used_twice_keeps_its_weights():
    _, error = converted(Twice(), 1, 4, 16)
    assert error < TOLERANCE


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "extra"),
    [(3, 2, 1, 1), (3, 2, 1, 0), (5, 2, 2, 1), (4, 2, 1, 0), (3, 1, 1, 0), (5, 3, 2, 2)],
)
def test_a_transposed_convolution_of_any_padding_converts(kernel, stride, padding, extra, bias):
    layer = nn.ConvTranspose2d(4, 8, kernel, stride, padding, extra, bias=bias)
    _, error = converted(layer, 1, 4, 6, 5)
    assert error < TOLERANCE


def test_a_transposed_convolution_in_one_dimension_is_cropped_too():
    _, error = converted(nn.ConvTranspose1d(4, 8, 3, 2, 1, 1), 1, 4, 7)
    assert error < TOLERANCE


@pytest.mark.parametrize("parameters", [1, 8])
def test_prelu_is_arithmetic_and_no_selection(parameters):
    activation = nn.PReLU(parameters)
    nn.init.uniform_(activation.weight, 0.1, 2.0)
    operators, error = converted(Apply(activation), 1, 3, 8, 8)
    assert error < TOLERANCE
    assert not {"SELECT", "SELECT_V2", "GREATER"} & set(operators)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: functional.normalize(x, dim=1),
        lambda x: x * x.mean((2, 3), keepdim=True).expand_as(x),
        lambda x: x[:, :4].repeat(1, 2, 1, 1),
        lambda x: x[:, :4].expand(-1, -1, -1, -1).repeat(1, 2, 1, 1),
    ],
    ids=["normalize", "expand", "repeat", "expand and repeat"],
)
def test_what_is_spread_over_a_picture_keeps_its_axes(function):
    _, error = converted(Apply(function), 1, 3, 8, 8)
    assert error < TOLERANCE


def test_a_norm_of_another_order_is_left_as_it_is():
    program = torch.export.export(
        Apply(lambda x: x / x.norm(p=3, dim=1, keepdim=True)), (torch.randn(1, 3, 8, 8),)
    )
    module = program.module()
    rewrite_(module, is_dynamic=False)
    assert any("vector_norm" in str(node.target) for node in module.graph.nodes)


class Spelled(nn.Module):
    """A norm by its root mean square, as transformers' Llama writes it."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(16))

    def forward(self, x):
        return self.weight * (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6))


class Normed(nn.Module):
    """Two linear layers and a sum that read one norm."""

    def __init__(self, norm):
        super().__init__()
        self.norm, self.first, self.second = norm, nn.Linear(16, 16), nn.Linear(16, 16, bias=False)

    def forward(self, x):
        normed = self.norm(x)
        return normed + self.first(normed) * self.second(normed)


def dropped(norm):
    """As transformers' embeddings have it."""
    return nn.Sequential(norm, nn.Dropout(0.1))


@pytest.mark.parametrize(
    "make",
    [
        *(lambda: nn.LayerNorm(16), lambda: nn.RMSNorm(16), Spelled),
        *(lambda: dropped(nn.LayerNorm(16)), lambda: dropped(Spelled())),
    ],
)
@pytest.mark.parametrize("shape", [(1, 5, 16), (1, 16), (1, 2, 3, 16)])
def test_the_weights_of_layers_behind_a_norm_are_stored_as_they_are(make, shape):
    torch.manual_seed(0)
    model = Normed(make())
    for parameter in model.norm.parameters():
        nn.init.uniform_(parameter, 0.5, 2.0)
    sample = torch.randn(shape)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        content = convert_program(torch.export.export(model.eval(), (sample,)), is_dynamic=False)
    graph = read_graph(content, name="x")
    stored = [
        graph.constant_array(item.inputs[1])
        for item in graph.subgraphs[0].operators
        if item.name == "FULLY_CONNECTED"
    ]
    wanted = [model.first.weight, model.second.weight]
    assert len(stored) == 2
    for weight in wanted:
        assert any(np.array_equal(weight.detach().numpy(), item) for item in stored)
    engine = LiteRtEngine(content)
    with torch.no_grad():
        assert engine.run([sample.numpy()])[0] == pytest.approx(model(sample).numpy(), abs=1e-4)
    engine.close()
