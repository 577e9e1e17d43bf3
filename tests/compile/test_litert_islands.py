"""What stays float between integer layers: norms and slow kernels, and nothing else."""

import warnings

import numpy as np
import pytest
import torch
from torch import nn

from edgekit.compile.litert_convert import convert_program
from edgekit.compile.litert_islands import float_islands, names_of
from edgekit.compile.litert_quantize import quantize_model
from edgekit.compress.scaled_linear import as_spread
from edgekit.core.artifact import Artifact, Binding
from edgekit.core.progress import Reporter
from edgekit.core.strategy import Quantize
from edgekit.data.dataset import DatasetWriter, open_dataset
from edgekit.graph.reader import read_graph
from edgekit.runtime.litert import LiteRtEngine

SHAPE = (3, 12, 12)


class Apply(nn.Module):
    """Something between two convolutions."""

    def __init__(self, inside):
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3)
        self.inside = inside

    def forward(self, x):
        return self.last(self.inside(self.first(x)))


def float_model(inside):
    torch.manual_seed(0)
    model = Apply(inside).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(model, (torch.randn(1, *SHAPE),))
        return model, convert_program(program, is_dynamic=False)


def islands(inside):
    content = float_model(inside)[1]
    return names_of(float_islands(read_graph(content, name="x").subgraphs[0]))


def quantized(content, tmp_path, **settings):
    rng = np.random.default_rng(0)
    tmp_path.mkdir(exist_ok=True)
    with DatasetWriter(tmp_path / "calibration") as writer:
        for _ in range(16):
            writer.append({"x": rng.standard_normal(SHAPE).astype(np.float32)})
    artifact = Artifact(
        format="tflite",
        runtime="litert",
        entry="model.tflite",
        precision="float32",
        inputs=(Binding(name="x", position=0),),
        outputs=(Binding(name="y", position=0),),
    )
    made = quantize_model(
        content,
        artifact,
        {},
        Quantize(precision="int8", activations="static", **settings),
        open_dataset(tmp_path / "calibration"),
        Reporter(stage="test"),
    )
    return made.content, made.notes


def error_of(content, model, x):
    """The root mean square difference from torch, as a share of torch's own deviation."""
    engine = LiteRtEngine(content)
    found = engine.run([x])[0].astype(np.float64)
    engine.close()
    with torch.no_grad():
        expected = model(torch.from_numpy(x)).numpy()
    return float(np.sqrt(np.mean((found - expected) ** 2)) / expected.std())


def dtypes(content, operator):
    graph = read_graph(content, name="x").subgraphs[0]
    return {
        graph.tensors[index].dtype
        for item in graph.operators
        if item.name == operator
        for index in item.outputs
    }


def test_plain_layers_and_their_activations_are_no_islands():
    assert islands(nn.Sequential(nn.BatchNorm2d(8), nn.ReLU6(), nn.SiLU())) == ()


def test_a_slow_kernel_is_an_island_by_itself():
    assert islands(nn.Hardswish()) == ("HARD_SWISH",)
    assert islands(nn.AvgPool2d(2)) == ("AVERAGE_POOL_2D",)


def test_a_norm_is_an_island_as_a_whole():
    found = set(islands(nn.GroupNorm(2, 8)))
    assert {"MEAN", "SUB", "RSQRT", "MUL", "ADD"} <= found
    assert not {"CONV_2D", "DEPTHWISE_CONV_2D"} & found


@pytest.mark.parametrize(
    ("inside", "at_most"),
    [
        # One rounding to 8 bits at each end of four layers: a few hundredths.
        (nn.GroupNorm(2, 8), 0.06),
        (nn.Sequential(nn.InstanceNorm2d(8, affine=True), nn.Softplus()), 0.06),
        (nn.Mish(), 0.06),
    ],
    ids=["group norm", "instance norm and softplus", "mish"],
)
def test_integers_around_an_island_stay_close_to_torch(inside, at_most, tmp_path):
    model, content = float_model(inside)
    x = np.random.default_rng(1).standard_normal((1, *SHAPE)).astype(np.float32)
    result, notes = quantized(content, tmp_path)
    assert error_of(result, model, x) < at_most
    assert any("stay float" in note for note in notes)
    assert dtypes(result, "CONV_2D") == {"int8"}


class Rows(nn.Module):
    """A layer of the step "spread" on rows of two, three or four axes, and what reads it."""

    def __init__(self, reader):
        super().__init__()
        self.linear = as_spread(nn.Linear(10, 10), 2.0 ** torch.arange(10))
        self.reader = reader

    def forward(self, x):
        return self.reader(self.linear(x))


def graph_of_rows(reader, shape):
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(Rows(reader).eval(), (torch.randn(shape),))
        content = convert_program(program, is_dynamic=False)
    return read_graph(content, name="x").subgraphs[0]


@pytest.mark.parametrize("shape", [(1, 10), (1, 7, 10), (1, 3, 7, 10)])
def test_channels_get_their_ranges_back_among_floats(shape):
    graph = graph_of_rows(nn.GELU(), shape)
    assert [it.name for it in graph.operators if it.name != "RESHAPE"] == [
        *("FULLY_CONNECTED", "MUL", "GELU")
    ]
    chosen = float_islands(graph)
    names = [it.name for it in graph.operators]
    # Nothing but the layer, and what only changes its axes, is left as integers.
    assert {"MUL", "GELU"} <= set(names_of(chosen)) <= {"MUL", "GELU", "RESHAPE"}
    assert all(item in chosen for item in graph.operators[names.index("MUL") :])


def test_a_multiplication_before_the_next_layer_is_no_island():
    assert float_islands(graph_of_rows(nn.Linear(10, 10), (1, 7, 10))) == ()


def edges(content):
    graph = read_graph(content, name="x").subgraphs[0]
    return {graph.tensors[index].dtype for index in (*graph.inputs, *graph.outputs)}


def test_a_microcontroller_gets_integers_throughout(tmp_path):
    _, content = float_model(nn.Hardswish())
    result, notes = quantized(content, tmp_path / "phone")
    assert dtypes(result, "HARD_SWISH") == edges(result) == {"float32"}
    result, notes = quantized(content, tmp_path / "board", is_integer_only=True)
    assert dtypes(result, "HARD_SWISH") == edges(result) == {"int8"}
    assert not any("stay float" in note for note in notes)
