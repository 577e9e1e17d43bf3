"""The committed tables of operators, against the compilers that are installed."""

import contextlib
import importlib
import io
import sys

import numpy as np
import pytest
import torch

from edgekit.catalog import load_target
from edgekit.catalog.search import built_in_root

pytestmark = pytest.mark.filterwarnings("ignore")
ORDER = ("native", "fallback", "unsupported")


@pytest.fixture(scope="module")
def tables():
    folder = str(built_in_root() / "scripts")
    sys.path.insert(0, folder)
    try:
        yield importlib.import_module("make_operator_tables")
    finally:
        sys.path.remove(folder)


@pytest.fixture(scope="module")
def compilers(tables):
    with contextlib.redirect_stdout(io.StringIO()):
        return {"litert": tables.litert_compiler(), "onnx": tables.onnx_compiler()}


@pytest.mark.parametrize("name", ["litert", "onnx"])
def test_what_has_a_lowering_of_its_own_is_native(compilers, name):
    target, compiler = load_target(name), compilers[name]
    own = compiler.lowered - compiler.decomposed
    assert len(own) > 200
    wrong = {item for item in own if target.support_of(item).support != "native"}
    assert not wrong


@pytest.mark.parametrize("name", ["litert", "onnx"])
def test_what_is_called_native_or_fallback_ends_in_lowerings(compilers, name):
    compiler = compilers[name]
    for item in load_target(name).operators:
        if item.support == "unsupported":
            # In every sample something was left that the compiler does not know.
            assert item.name not in compiler.lowered - compiler.decomposed, item.name
        assert item.name.startswith("aten."), item.name


@pytest.mark.parametrize("name", ["litert", "onnx"])
def test_common_layers_are_at_least_what_decomposing_them_shows(tables, compilers, name):
    target, seen = load_target(name), 0
    for program in importlib.import_module("operator_samples").layers():
        before = sorted(set(tables.operators_of(program)))
        if len(before) != 1:
            continue
        survey = tables.Survey(compiler=compilers[name], found={}, survivors=set())
        with contextlib.redirect_stdout(io.StringIO()):
            found = tables.judge(survey, before[0], program)
        committed = target.support_of(before[0]).support
        assert ORDER.index(committed) <= ORDER.index(found.support), (before, found)
        seen += 1
    assert seen >= 30


KNOWN = {
    "aten.conv2d.default": ("native", "native"),
    "aten.linear.default": ("native", "native"),
    "aten.batch_norm.default": ("native", "native"),
    "aten.relu.default": ("native", "native"),
    "aten.relu_.default": ("native", "native"),
    "aten.max_pool2d.default": ("native", "native"),
    "aten.embedding.default": ("native", "native"),
    "aten.add.Tensor": ("native", "native"),
    "aten.mean.dim": ("native", "native"),
    "aten.matmul.default": ("native", "native"),
    "aten.adaptive_avg_pool2d.default": ("native", "native"),
    "aten.convolution.default": ("native", "native"),
    "aten.contiguous.default": ("native", "native"),
    "aten.lstm.input": ("fallback", "native"),
    "aten.scaled_dot_product_attention.default": ("fallback", "native"),
    "aten._assert_tensor_metadata.default": ("native", "native"),
    "aten.linalg_svd.default": ("unsupported", "unsupported"),
}


@pytest.mark.parametrize("operator", sorted(KNOWN))
def test_what_everybody_knows_of_common_operators(operator):
    found = tuple(load_target(name).support_of(operator).support for name in ("litert", "onnx"))
    assert found == KNOWN[operator]


class Network(torch.nn.Module):
    """The operators that the tables call native, in one model."""

    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 4, 3, padding=1)
        self.norm = torch.nn.BatchNorm2d(4)
        self.head = torch.nn.Linear(4, 2)

    def forward(self, x):
        return self.head(torch.relu_(self.norm(self.conv(x))).mean((2, 3)))


class Singular(torch.nn.Module):
    """An operator that the tables call unsupported."""

    def forward(self, x):
        return torch.linalg.svd(x)[1]


def convert_litert(model, sample):
    import litert_torch

    with contextlib.redirect_stdout(io.StringIO()):
        return litert_torch.convert(model, (sample,))


def convert_onnx(model, sample):
    return torch.onnx.export(model, (sample,), dynamo=True, verbose=False)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "convert"), [("litert", convert_litert), ("onnx", convert_onnx)])
def test_the_compilers_do_what_the_tables_say(name, convert):
    target, sample = load_target(name), torch.rand(1, 3, 8, 8)
    model = Network().eval()
    for node in torch.export.export(model, (sample,)).graph.nodes:
        if node.op == "call_function":
            assert target.support_of(str(node.target)).support == "native"
    found = convert(model, sample)(*((sample.numpy(),) if name == "litert" else (sample,)))
    found = found if name == "litert" else found[0].numpy()
    # Float arithmetic in another order: a few units of the last place.
    np.testing.assert_allclose(found, model(sample).detach().numpy(), atol=1e-5)
    assert target.support_of("aten.linalg_svd.default").support == "unsupported"
    with pytest.raises(Exception, match=r"svd|SVD"):  # each compiler has its own
        convert(Singular().eval(), torch.rand(4, 4))


@pytest.mark.slow
def test_a_note_says_what_an_operator_becomes():
    target = load_target("onnx")
    fallbacks = [item for item in target.operators if item.support == "fallback"]
    assert fallbacks
    assert sum(bool(item.note) for item in fallbacks) > len(fallbacks) / 2
