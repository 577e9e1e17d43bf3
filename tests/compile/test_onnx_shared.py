"""Weights that several layers share: each reader computes in integers, and they are stored once."""

import json
from math import prod

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from edgekit.core.contract import Tensor
from edgekit.core.strategy import Quantize
from edgekit.graph.reader import read_graph
from edgekit.measure.audit import audit_quantization
from tests.compile.models import workload_of
from tests.compile.onnx_tools import export_model, session, write_samples

SETTINGS = {
    "dynamic": Quantize(precision="int8", activations="dynamic"),
    "static": Quantize(precision="int8", activations="static", is_unsigned=True),
    "int4": Quantize(precision="int4", activations="dynamic", keep_first_last_int8=False),
    "blocks": Quantize(
        precision="int4", activations="dynamic", block_size=16, keep_first_last_int8=False
    ),
}
INTEGERS = (onnx.TensorProto.INT8, onnx.TensorProto.UINT8, onnx.TensorProto.INT4)
SHAPES = {"rows (Gemm)": (32,), "places (MatMul)": (6, 32)}


class Twice(nn.Module):
    """Two layers of one weight with biases of their own."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(32, 32), nn.Linear(32, 32)
        self.two.weight = self.one.weight
        self.last = nn.Linear(32, 16)

    def forward(self, x):
        return self.last(torch.relu(self.two(torch.relu(self.one(x)))))


@pytest.fixture(scope="module", params=SHAPES.values(), ids=SHAPES)
def twice(request, tmp_path_factory):
    torch.manual_seed(0)
    workload = workload_of(Twice().eval(), {"x": Tensor(shape=request.param)}, ["y"])
    return export_model(workload, tmp_path_factory.mktemp("twice"))


@pytest.mark.parametrize("kind", SETTINGS)
def test_every_reader_computes_in_integers(twice, kind, tmp_path):
    shape = tuple(twice.contract.inputs[0].shape[1:])
    drawn = np.random.default_rng(0).standard_normal((40, *shape)).astype(np.float32)
    rows = write_samples(tmp_path / "rows", [{"x": item} for item in drawn])
    settings, out = SETTINGS[kind], tmp_path / "q"
    twice.quantize(out, settings, rows if kind == "static" else None)
    constants = onnx.load(out / "model.onnx").graph.initializer
    integers = [item for item in constants if item.data_type in INTEGERS and prod(item.dims) > 64]
    # The shared weight once, and the last one.
    half = 2 if settings.precision == "int4" else 1
    assert sum(len(item.raw_data) for item in integers) == (32 * 32 + 32 * 16) // half
    floats = [item for item in constants if item.data_type == onnx.TensorProto.FLOAT]
    assert all(prod(item.dims) < 32 * 16 for item in floats)

    paths = json.loads((twice.float_folder / "tensor_map.json").read_bytes())
    paths |= json.loads((out / "tensor_map.json").read_bytes())
    before, after = (
        read_graph((folder / "model.onnx").read_bytes(), name="model")
        for folder in (twice.float_folder, out)
    )
    report = audit_quantization(before, after, settings=settings, tensor_map=paths, tolerance=0.0)
    assert report.is_accepted
    assert all(item.severity == "note" for item in report.findings)

    with torch.no_grad():
        wanted = twice.workload.model(torch.from_numpy(drawn)).numpy()
    run = session(out / "model.onnx")
    found = np.concatenate([run.run(None, {"x": item[None]})[0] for item in drawn])
    # Of the outputs' own size; 4 bits lose a tenth of a weight's deviation, 8 bits a hundredth.
    assert np.linalg.norm(found - wanted) < (0.25 if half == 2 else 0.03) * np.linalg.norm(wanted)
