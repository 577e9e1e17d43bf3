"""Weights in products that are named by their axes, which ONNX Runtime's quantizers pass over."""

import json
from math import prod

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from edgekit.core.contract import Tensor
from edgekit.core.strategy import Override, Quantize
from edgekit.graph.reader import read_graph
from edgekit.measure.audit import audit_quantization
from tests.compile.models import workload_of
from tests.compile.onnx_tools import export_model, session, write_samples

SETTINGS = {
    "static": Quantize(precision="int8", activations="static", is_unsigned=True),
    "dynamic": Quantize(precision="int8", activations="dynamic"),
    "none": Quantize(precision="int8", activations="none"),
    "int4": Quantize(precision="int4", activations="dynamic"),
}


class Mixer(nn.Module):
    """A linear layer, a product with one matrix a head, and a linear layer."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(16, 32)
        self.heads = nn.Parameter(torch.randn(4, 8, 24) * 0.3)
        self.last = nn.Linear(24, 8)

    def forward(self, x):
        hidden = torch.relu(self.first(x)).unflatten(-1, (4, 8))
        return self.last(torch.einsum("bnhd,hde->bne", hidden, self.heads))


@pytest.fixture(scope="module")
def mixer(tmp_path_factory):
    torch.manual_seed(0)
    workload = workload_of(Mixer().eval(), {"x": Tensor(shape=(6, 16))}, ["y"])
    return export_model(workload, tmp_path_factory.mktemp("mixer"))


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    draw = np.random.default_rng(0).standard_normal((40, 6, 16)).astype(np.float32)
    folder = tmp_path_factory.mktemp("rows") / "set"
    return write_samples(folder, [{"x": item} for item in draw]), draw


def audited(mixer, out, settings):
    paths = json.loads((mixer.float_folder / "tensor_map.json").read_bytes())
    paths |= json.loads((out / "tensor_map.json").read_bytes())
    before, after = (
        read_graph((folder / "model.onnx").read_bytes(), name="model")
        for folder in (mixer.float_folder, out)
    )
    return audit_quantization(before, after, settings=settings, tensor_map=paths, tolerance=0.0)


@pytest.mark.parametrize("name", list(SETTINGS))
def test_their_weights_are_stored_in_integers_and_told(mixer, rows, tmp_path, name):
    data, inputs = rows
    settings = SETTINGS[name]
    calibration = data if settings.activations == "static" else None
    mixer.quantize(tmp_path / "q", settings, calibration)
    model = onnx.load(tmp_path / "q" / "model.onnx")
    floats = [
        tensor.name
        for tensor in model.graph.initializer
        if tensor.data_type == onnx.TensorProto.FLOAT and prod(tensor.dims) >= 16 * 8
    ]
    assert floats == []
    found = session(tmp_path / "q" / "model.onnx").run(None, {"x": inputs[:1]})[0]
    with torch.no_grad():
        wanted = mixer.workload.model(torch.from_numpy(inputs[:1])).numpy()
    # 4 bits of normal weights lose a tenth of their deviation, 8 bits a hundredth of that.
    bound = 0.2 if name == "int4" else 0.05
    assert np.linalg.norm(found - wanted) < bound * np.linalg.norm(wanted)
    report = audited(mixer, tmp_path / "q", settings)
    assert report.is_accepted
    if settings.activations != "none":
        (note,) = (item for item in report.findings if item.kind == "float compute")
        assert (note.severity, note.layer) == ("note", "heads")
        assert "einsum" in note.message


def test_one_that_stayed_float_is_counted(mixer, tmp_path):
    left = Quantize(
        precision="int8",
        activations="dynamic",
        overrides=(Override(pattern="heads", precision="float"),),
    )
    mixer.quantize(tmp_path / "q", left)
    assert audited(mixer, tmp_path / "q", left).is_accepted
    report = audited(mixer, tmp_path / "q", SETTINGS["dynamic"])
    assert not report.is_accepted
    assert any("heads" in item.layer and item.severity == "counted" for item in report.findings)
