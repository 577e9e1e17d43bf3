import subprocess
import sys
import warnings

import pytest
import torch
from torch import nn

from edgekit.compile.facts import digest_of_program, facts_of
from tests.compile import models


def facts(model, *inputs, batch=1):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's own LSTM
        program = torch.export.export(model.eval(), inputs, strict=False)
    return facts_of(program, batch=batch)


def test_a_cnns_layers_are_counted_as_by_hand():
    found = facts(models.SmallCnn(), torch.randn(1, 3, 16, 16))
    assert [(layer.module_path, layer.kind, layer.macs) for layer in found.layers] == [
        ("stem", "conv", 16 * 16 * 16 * 27),
        ("body", "conv", 16 * 16 * 16 * 144),
        ("depthwise", "depthwise", 16 * 8 * 8 * 9),
        ("pointwise", "conv", 32 * 8 * 8 * 16),
        ("classifier", "linear", 320),
    ]
    assert found.macs == sum(layer.macs for layer in found.layers)
    assert found.family == "convnet"
    assert found.layers[3].parameters == 32 * 16 + 32


def test_resnet_20_has_the_published_numbers(data_dir):
    # He et al. 2016 table 6: 0.27 M parameters; SOURCES.md: 269,722; 40.55 M MACs by hand from
    # 3x3 convolutions of 16, 32 and 64 channels at 32, 16 and 8 pixels.
    found = facts(models.pretrained_resnet(data_dir, 20), torch.randn(1, 3, 32, 32))
    assert found.parameters == 269_722
    assert found.macs == 40_551_040


def test_numbers_are_for_one_sample_whatever_the_batch():
    one = facts(models.SmallCnn(), torch.randn(1, 3, 16, 16))
    four = facts(models.SmallCnn(), torch.randn(4, 3, 16, 16), batch=4)
    assert (one.macs, one.peak_activation_bytes) == (four.macs, four.peak_activation_bytes)


def test_attention_counts_both_products():
    class Attention(nn.Module):
        def forward(self, q, k, v):
            return nn.functional.scaled_dot_product_attention(q, k, v)

    shape = (1, 2, 8, 4)
    found = facts(Attention(), *(torch.randn(shape) for _ in range(3)))
    assert found.macs == 2 * (2 * 8 * 8 * 4)
    assert found.family == "transformer"


def test_a_product_of_activations_is_no_layer():
    class Product(nn.Module):
        def forward(self, a, b):
            return a @ b

    found = facts(Product(), torch.randn(1, 3, 4), torch.randn(1, 4, 5))
    assert found.layers == ()
    assert found.macs == 3 * 4 * 5


def test_a_matrix_parameter_in_a_product_is_a_linear_layer():
    class Projection(nn.Module):
        def __init__(self):
            super().__init__()
            self.matrix = nn.Parameter(torch.randn(4, 5))

        def forward(self, x):
            return x @ self.matrix

    found = facts(Projection(), torch.randn(1, 4))
    assert [(layer.kind, layer.macs, layer.module_path) for layer in found.layers] == [
        ("linear", 20, "matrix")
    ]


def test_products_that_name_their_axes_count_as_by_hand():
    class Einsum(nn.Module):
        def __init__(self):
            super().__init__()
            self.heads = nn.Parameter(torch.randn(2, 4, 5))

        def forward(self, x):
            found = torch.einsum("bnhd,hde->bne", x, self.heads)
            return torch.einsum("...ij,...kj->...ik", found, found)

    found = facts(Einsum(), torch.randn(1, 3, 2, 4))
    assert [(layer.kind, layer.macs, layer.module_path) for layer in found.layers] == [
        ("linear", 3 * 2 * 4 * 5, "heads")
    ]
    # The second is one of activations: 3 rows by 3 rows, 5 columns.
    assert found.macs == 3 * 2 * 4 * 5 + 3 * 3 * 5


@pytest.mark.parametrize(
    ("model", "inputs", "kind", "macs"),
    [
        (nn.ConvTranspose2d(3, 5, 2), torch.randn(1, 3, 4, 4), "conv", 3 * 16 * 5 * 4),
        (nn.Conv1d(4, 8, 3, groups=2), torch.randn(1, 4, 10), "conv", 8 * 8 * 2 * 3),
        (nn.Conv2d(1, 4, 3), torch.randn(1, 1, 5, 5), "conv", 4 * 9 * 9),
        (nn.LSTM(6, 5, batch_first=True), torch.randn(1, 7, 6), "recurrent", 7 * 20 * (6 + 5)),
    ],
)
def test_other_layers_are_known(model, inputs, kind, macs):
    layer = facts(model, inputs).layers[0]
    assert (layer.kind, layer.macs) == (kind, macs)


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize(
    ("model", "inputs", "macs"),
    [
        (nn.Linear(6, 4), torch.zeros(1, 6), 6 * 4),
        (nn.Conv2d(2, 4, 3), torch.zeros(1, 2, 5, 5), 3 * 3 * 4 * 2 * 9),
    ],
)
def test_a_layer_whose_weight_is_computed_counts_as_any_other(model, inputs, macs):
    with_norm = nn.utils.parametrizations.weight_norm(model).eval()
    facts = facts_of(torch.export.export(with_norm, (inputs,)), batch=1)
    assert [layer.weight_shape for layer in facts.layers] == [tuple(model.weight.shape)]
    assert facts.macs == macs


def test_peak_memory_is_that_of_the_widest_moment():
    class Chain(nn.Module):
        def forward(self, x):
            y = torch.cat([x, x, x], 1)  # x 10 floats and y 30 live
            z = torch.relu(y)  # y 30 and z 30 live; x is gone
            return z.view(1, 30)[:, :2]

    assert facts(Chain(), torch.randn(1, 10)).peak_activation_bytes == 4 * 60


@pytest.mark.parametrize(
    ("name", "family"),
    [("transformer_workload", "transformer"), ("mlp_workload", "mlp")],
)
def test_families(name, family):
    workload = getattr(models, name)()
    kind = next(iter(workload.inputs.values()))
    sample = torch.zeros(1, *kind.shape, dtype=getattr(torch, kind.dtype))
    assert facts(workload.model, sample).family == family


def test_a_model_without_weights_is_other():
    assert facts(nn.ReLU(), torch.randn(1, 3)).family == "other"


DIGEST = """
import torch
from tests.compile import models
from edgekit.compile.facts import digest_of_program
model = models.cnn_workload().model
print(digest_of_program(torch.export.export(model, (torch.zeros(1, 3, 16, 16),), strict=False)))
"""


def test_the_digest_is_the_same_in_another_process_and_follows_every_weight():
    model = models.cnn_workload().model
    program = torch.export.export(model, (torch.zeros(1, 3, 16, 16),), strict=False)
    there = subprocess.run(
        [sys.executable, "-c", DIGEST], capture_output=True, text=True, check=True
    )
    digest = digest_of_program(program)
    assert there.stdout.strip() == digest
    with torch.no_grad():
        model.stem_norm.running_mean[3] += 1e-6
    other = torch.export.export(model, (torch.zeros(1, 3, 16, 16),), strict=False)
    assert digest_of_program(other) != digest
