import pytest
import torch
import torch_pruning
from torch import nn
from torch.nn import functional

from edgekit.compress.count import Count, count, count_run
from edgekit.compress.example import as_example
from tests.compress.architectures import CNNS, TRANSFORMERS
from tests.compress.benches import cnn_bench


def counted(model, inputs):
    return count_run(model.eval(), as_example(inputs))


def test_convolution_by_hand():
    model = nn.Conv2d(3, 8, 3, padding=1)
    found = counted(model, torch.randn(2, 3, 10, 10))
    assert found == Count(
        parameters=8 * 3 * 9 + 8, macs=10 * 10 * 8 * 3 * 9, bytes=4 * (8 * 3 * 9 + 8), layers=1
    )


@pytest.mark.parametrize(
    ("model", "shape", "macs"),
    [
        (nn.Linear(6, 4), (2, 6), 24),
        (nn.Linear(6, 4), (2, 5, 6), 5 * 24),
        (nn.Conv2d(8, 8, 3, groups=8, bias=False), (2, 8, 6, 6), 4 * 4 * 8 * 9),
        (nn.Conv2d(8, 16, 1, groups=4), (2, 8, 6, 6), 36 * 16 * 2),
        (nn.Conv1d(4, 6, 5, stride=2), (2, 4, 21), 9 * 6 * 4 * 5),
        (nn.ConvTranspose2d(4, 6, 2, 2), (2, 4, 5, 5), 25 * 4 * 6 * 4),
        (nn.LSTM(6, 5, batch_first=True), (2, 7, 6), 7 * 4 * 5 * (6 + 5)),
        (
            nn.LSTM(6, 5, 2, batch_first=True, bidirectional=True),
            (2, 7, 6),
            7 * 2 * (4 * 5 * (6 + 5) + 4 * 5 * (10 + 5)),
        ),
        (nn.GRU(6, 5, batch_first=True), (2, 7, 6), 7 * 3 * 5 * (6 + 5)),
    ],
)
def test_layers_by_hand(model, shape, macs):
    assert counted(model, torch.randn(shape)).macs == macs


class Asks(nn.Module):
    """A view of a parameter goes through a layer, as learned queries do."""

    def __init__(self):
        super().__init__()
        self.queries, self.layer = nn.Parameter(torch.randn(1, 3, 6)), nn.Linear(6, 4)

    def forward(self, x):
        return self.layer(self.queries[:, :2].expand(len(x), -1, -1)).sum() + x


def test_a_view_of_a_parameter_that_goes_through_a_layer_is_counted():
    model = Asks()
    assert counted(model, torch.randn(2, 1)).macs == 2 * 24
    assert all(value.requires_grad for value in model.parameters())


class Attend(nn.Module):
    def __init__(self, is_shared):
        super().__init__()
        self.is_shared = is_shared

    def forward(self, query, key):
        return functional.scaled_dot_product_attention(query, key, key, enable_gqa=self.is_shared)


@pytest.mark.parametrize("keys", [4, 2])
def test_attention_counts_its_two_products_for_every_query_head(keys):
    """4 heads, 5 queries, 7 keys, 8 wide; the table of torch leaves the CPU's operator out."""
    inputs = (torch.randn(2, 4, 5, 8), torch.randn(2, keys, 7, 8))
    assert counted(Attend(keys != 4), inputs).macs == 2 * 4 * 5 * 7 * 8


def test_torchs_fused_layer_is_counted_by_its_parts():
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    projections, products, ffn = 4 * 16 * 16, 2 * 9 * 16, 2 * 16 * 32
    assert counted(layer, torch.randn(2, 9, 16)).macs == 9 * (projections + products + ffn)


def test_tied_weights_count_once():
    model = nn.Sequential(nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False))
    model[1].weight = model[0].weight
    found = counted(model, torch.randn(2, 8))
    assert (found.parameters, found.macs) == (64, 128)


@pytest.mark.parametrize("name", CNNS)
def test_parameters_and_macs_are_those_of_torch_pruning(name):
    """It also counts biases, norms, pooling and activations: less than a fifth of these nets."""
    architecture = CNNS[name]
    model, inputs = architecture.model(), architecture.inputs()[:1]
    macs, parameters = torch_pruning.utils.count_ops_and_params(model, inputs)
    found = counted(model, inputs)
    assert found.parameters == parameters
    assert 0.8 * macs < found.macs <= macs


def test_macs_of_convolutions_and_linear_layers_are_exactly_those_of_torch_pruning():
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False), nn.Conv2d(8, 4, 3, bias=False), nn.Flatten(),
        nn.Linear(4 * 16, 10, bias=False),
    )  # fmt: skip
    inputs = torch.randn(1, 3, 8, 8)
    macs, parameters = torch_pruning.utils.count_ops_and_params(model, inputs)
    assert (counted(model, inputs).macs, counted(model, inputs).parameters) == (macs, parameters)


def test_count_is_of_one_sample_whatever_the_batch():
    for name in ("residual", "depthwise"):
        architecture = CNNS[name]
        model, inputs = architecture.model(), architecture.inputs()
        assert counted(model, inputs) == counted(model, inputs[:1])
    model, inputs = TRANSFORMERS["llama"].model(), TRANSFORMERS["llama"].inputs()
    assert counted(model, inputs) == counted(model, inputs[:1])


def test_counting_leaves_the_modes_of_modules_alone():
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)).train()
    model[0].eval()
    count_run(model, as_example(torch.randn(2, 4)))
    assert [module.training for module in model] == [False, True]
    assert torch.equal(model[1].running_mean, torch.zeros(4))


def test_model_on_a_bench_by_hand(digits, checkpoints):
    """Stem, two inner and a depthwise convolution, a pointwise one, a classifier, five norms."""
    bench = cnn_bench(digits, checkpoints)
    found = count(bench.model, bench)
    weights = 9 * 16 + 2 * 9 * 16 * 16 + 9 * 16 + 16 * 32 + 32 + 32 * 10 + 10
    assert found.parameters == weights + 3 * 2 * 16
    large, small = 64 * (9 * 16 + 2 * 9 * 16 * 16), 16 * (9 * 16 + 16 * 32)
    assert found.macs == large + small + 320
    assert found.layers == 6


@pytest.mark.parametrize(
    ("layers", "parameters", "bits", "measured_bytes"),
    [
        (10, 15_202, 4, 14_848),
        (14, 18_394, 4, 17_680),
        (22, 21_634, 4, 22_160),
        (16, 76_114, 8, 87_424),
    ],
)
def test_a_file_is_foreseen_from_above_and_within_a_fifth(layers, parameters, bits, measured_bytes):
    """Stripped .tflite files of pruned ResNet-20s, as edgekit built them in 2026-11."""
    found = Count(parameters=parameters, macs=0, layers=layers).artifact_bytes(bits)
    assert measured_bytes <= found <= 1.2 * measured_bytes
