"""What a file of each form holds of a weight, and which forms a layer can have."""

import numpy as np
import pytest
import torch
from torch import nn

from edgekit.compress.quantization.layer_forms import Form, FormedLayer, formed_layers, four_bits
from tests.compress import benches

INT8, INT4, BLOCKS = (
    Form(precision="int8"),
    Form(precision="int4"),
    Form(precision="int4", block_size=16),
)


def layer_of(weight, axis=0):
    return FormedLayer(path="x", kind="linear", weight=nn.Parameter(weight), axis=axis, forms=())


def lost_by(row, scale, power):
    """What one row loses on a grid -8..7 with this step, in numpy."""
    grid = np.clip(np.round(row / scale), -8, 7) * scale
    return (np.abs(grid - row) ** power).sum()


def test_four_bits_lose_no_more_than_any_step_tried_by_hand():
    weight = torch.randn(5, 40, generator=torch.Generator().manual_seed(0)) ** 3
    found = four_bits(weight, 0).double().numpy()
    for row, stored in zip(weight.double().numpy(), found, strict=True):
        full = np.abs(row).max() / 7
        least = min(lost_by(row, full * share, 3) for share in np.linspace(0.3, 1, 141))
        # The stored row is float32.
        assert (np.abs(stored - row) ** 3).sum() == pytest.approx(least, rel=1e-4)
        assert len(np.unique(stored)) <= 16


def test_zeros_stay_zeros_and_whole_steps_stay_whole():
    weight = torch.tensor([[0.0, 0.0, 0.0], [7.0, -3.0, 1.0], [-14.0, 6.0, 2.0]])
    assert torch.equal(four_bits(weight, 0), weight)


def test_each_block_has_a_step_of_its_own():
    weight = torch.cat([torch.linspace(-1, 1, 16), 100 * torch.linspace(-1, 1, 16)])[None]
    found = BLOCKS.stored(weight, layer_of(weight))
    # Steps keep 8 significant bits, as a .tflite stores them: 1/7 to within 0.4%.
    assert float((found[0, :16] - weight[0, :16]).abs().max()) <= 1 / 14 + 0.004
    assert torch.count_nonzero(INT4.stored(weight, layer_of(weight))[0, :16]) == 0


def test_transposed_convolutions_have_their_channels_on_the_second_axis():
    weight = torch.tensor([[[1.0, 0.5]], [[100.0, 50.0]]]).movedim(0, 1)  # (1, 2, 2)
    found = INT8.stored(weight, layer_of(weight, axis=1))
    assert found == pytest.approx(weight, rel=1 / 127)


@pytest.mark.parametrize(
    ("form", "count"), [(INT8, 96), (INT4, 48), (BLOCKS, 48 + 2 * 6), (Form(precision="fp16"), 192)]
)
def test_bytes_are_those_of_the_elements_and_the_scales_of_blocks(form, count):
    assert form.weight_bytes(torch.zeros(6, 16)) == count


class Several(nn.Module):
    """One of each kind; the table of rows is tied to the last layer."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, padding=1)
        self.depth = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.grouped = nn.Conv2d(8, 8, 3, padding=1, groups=2)
        self.up = nn.ConvTranspose2d(8, 8, 2)
        self.plain = nn.Conv2d(8, 8, 1)
        self.rows = nn.Embedding(10, 8)
        self.scores = nn.Linear(8, 10)
        self.scores.weight = self.rows.weight
        self.odd = nn.Linear(10, 10)

    def forward(self, image):
        hidden = self.plain(self.up(self.grouped(self.depth(self.stem(image))))).mean((2, 3))
        hidden = hidden + self.rows(hidden.argmax(1))
        return self.odd(self.scores(hidden))


def test_a_layer_has_what_both_targets_store_of_it(digits, tmp_path):
    model = benches.seeded(Several)
    bench = benches.bench_of(model, digits, tmp_path)
    layers, refusals = formed_layers(
        model, (INT8, INT4, Form(precision="int4", block_size=2)), bench
    )
    found = {layer.path: [form.name for form in layer.forms] for layer in layers}
    assert found == {
        "stem": ["int8"],
        "depth": ["int8"],
        "grouped": ["int8"],
        "up": ["int8"],
        "plain": ["int8", "int4"],
        "scores": ["int8", "int4", "int4/2"],
        "odd": ["int8", "int4", "int4/2"],
    }
    assert next(layer for layer in layers if layer.path == "scores").others == ("rows",)
    assert "depthwise" in refusals.forms["depth"]["int4"]
    assert "transposed" in refusals.forms["up"]["int4"]
    assert "one channel" in refusals.forms["stem"]["int4"]


def test_an_embedding_of_its_own_comes_first(digits, tmp_path):
    model = benches.seeded(Several)
    model.scores.weight = nn.Parameter(model.scores.weight.detach().clone())
    bench = benches.bench_of(model, digits, tmp_path)
    layers, _ = formed_layers(model, (INT4,), bench)
    assert (layers[0].path, layers[0].kind) == ("rows", "embedding")
