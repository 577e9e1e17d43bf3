"""What was trained rounded is what the artifacts compute: integers compared layer by layer.

A forward of the trained model is written out by hand with torch's own fake quantization. Each layer
gets the artifact's own integers, so that what it gives is compared by itself. Left between the two
is that the artifact holds a bias in 32 bits, by the step of its input times that of its weight,
which the forward does too, and that its kernels round their products in their own way: one step of
8 bits at most, for few values.
"""

from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from torch.nn import functional

from edgekit.compile import litert
from edgekit.compile import onnx as onnx_stages
from edgekit.compress.training.objective import label_objective
from edgekit.compress.training.train import train
from edgekit.core.codec import to_plain
from edgekit.core.stage import StageRequest
from edgekit.core.steps import Rounding, Train
from edgekit.core.strategy import Quantize
from edgekit.graph.ranges import write_ranges
from edgekit.runtime.litert import LiteRtEngine
from tests.compile import models, onnx_tools
from tests.compile.conftest import export_workload, quantize_request
from tests.compress.benches import PIXELS, SILENT, TinyCnn, bench_of, seeded, write_digits

SAMPLES, TOP = 48, 255
# What lies on the edge between two integers may fall to either side.
EXACT = 0.995
SETTINGS = Quantize(precision="int4", activations="static", is_unsigned=True)
ROUNDING = Rounding(precision="int4", activations="static", method="lsq")
TOPS = {"stem": 127, "first": 7, "second": 7, "depthwise": 127, "pointwise": 7, "classifier": 127}


class Trained:
    """A model as a training with learned steps leaves it, and its ranges."""

    def __init__(self, folder):
        digits = write_digits(folder / "digits")
        bench = bench_of(seeded(TinyCnn), digits, folder / "checkpoints")
        settings = Train(epochs=2, batch_size=64, learning_rate=1e-2, rounding=ROUNDING)
        trained = train(bench.model, label_objective(bench), bench, settings, SILENT)
        self.model, self.ranges = bench.model.eval(), trained.ranges
        self.grids = {item.point: grid_of(item) for item in trained.ranges}
        self.sizes = {item.point: item.prints[0].count for item in trained.ranges}
        self.folder = folder / "ranges"
        self.folder.mkdir()
        write_ranges(self.folder, trained.ranges)
        rows = next(iter(digits.calibration.batches(64, ["image"])))["image"]
        self.calibration = onnx_tools.write_samples(
            folder / "calibration", [{"image": row} for row in rows]
        )
        rows = next(iter(digits.selection.batches(SAMPLES, ["image"])))["image"]
        self.images = torch.from_numpy(rows)

    def workload(self):
        return models.workload_of(self.model, {"image": PIXELS}, ["scores"])


def grid_of(item):
    step = (item.high - item.low) / TOP
    return step, round(-item.low / step)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return Trained(tmp_path_factory.mktemp("trained"))


class ByHand:
    """The model's layers on integers that the artifact gave; ``worst`` has what differs."""

    def __init__(self, trained, artifact):
        self.model, self.grids, self.artifact = trained.model, trained.grids, artifact
        self.differences = {}

    def see(self, point, value):
        step, zero = self.grids[point]
        ours = torch.clamp(torch.round(value / step) + zero, 0, TOP)
        theirs = torch.from_numpy(self.artifact[point].astype(np.float32))
        self.differences[point] = (theirs - ours).abs()
        return (theirs - zero) * step

    def layer(self, path, before, value, norm=""):
        """A layer with its norm folded in, its bias in steps of input and weight."""
        module = self.model.get_submodule(path)
        weight, bias = module.weight.double(), module.bias
        bias = torch.zeros(len(weight)).double() if bias is None else bias.double()
        if norm:
            folded = self.model.get_submodule(norm)
            factor = (folded.weight / (folded.running_var + folded.eps).sqrt()).double()
            shape = (-1,) + (1,) * (weight.ndim - 1)
            weight = weight * factor.reshape(shape)
            bias = folded.bias.double() + (bias - folded.running_mean) * factor
        steps = weight.abs().flatten(1).amax(dim=1) / TOPS[path] * self.grids[before][0]
        bias = torch.round(bias / steps) * steps
        if isinstance(module, torch.nn.Linear):
            return functional.linear(value.double(), weight, bias)
        return functional.conv2d(
            value.double(), weight, bias, module.stride, module.padding, 1, module.groups
        )

    def run(self, image):
        image = self.see("model input", image)
        stem = self.layer("stem", "model input", image, "stem_norm").relu()
        stem = self.see("model relu", stem)
        inner = self.layer("first", "model relu", stem, "first_norm").relu()
        inner = self.see("model relu 2", inner)
        second = self.layer("second", "model relu 2", inner, "second_norm")
        second = self.see("second_norm batch_norm", second)
        block = self.see("model relu 3", (second + stem).relu())
        deep = self.see("depthwise conv2d", self.layer("depthwise", "model relu 3", block))
        late = self.layer("pointwise", "depthwise conv2d", deep).relu()
        late = self.see("model relu 4", late)
        mean = self.see("model mean", late.mean(dim=(2, 3)))
        self.see("classifier linear", self.layer("classifier", "model mean", mean))
        return self.differences


def assert_computes_what_was_trained(trained, artifact, equal_ratios):
    """equal_ratios: of values that must be equal, by point; the rest is one step off at most."""
    with torch.no_grad():
        differences = ByHand(trained, artifact).run(trained.images)
    assert list(differences) == [item.point for item in trained.ranges]
    for point, difference in differences.items():
        assert difference.max() <= 1, point
        share = float((difference == 0).float().mean())
        assert share >= equal_ratios.get(point, EXACT), (point, share)


def litert_integers(trained, root):
    """The integers of every point, from LiteRT's reference kernels."""
    exported = export_workload(trained.workload(), root)
    request = quantize_request(exported, SETTINGS, trained.calibration)
    request = replace(request, inputs={**request.inputs, "ranges": str(trained.folder)})
    out = root / "quantized"
    out.mkdir()
    answer = litert.quantize(request, out, SILENT)
    assert any("ranges that they were trained with" in note for note in answer["notes"])
    content = (out / answer["artifact"]["entry"]).read_bytes()
    engine = LiteRtEngine(content, reference=True, keeps_inner=True)
    details = [
        item
        for item in engine._interpreter.get_tensor_details()
        if item["dtype"] == np.int8 and len(item["quantization_parameters"]["scales"]) == 1
    ]
    found = {}
    for number in range(SAMPLES):
        engine.run([trained.images[number : number + 1].numpy()])
        for item in details:
            found.setdefault(item["index"], []).append(engine.inner(item["index"]).copy())
    grids = {item["index"]: item["quantization"] for item in details}
    return {
        point: in_torchs_order(
            next(
                np.concatenate(found[index]).astype(int) + 128
                for index, (step, zero) in reversed(grids.items())
                if is_grid(step, zero + 128, trained.grids[point]) and found[index][0].size == size
            )
        )
        for point, size in trained.sizes.items()
    }


def is_grid(step, zero, wanted):
    return abs(step / wanted[0] - 1) < 1e-5 and zero == wanted[1]


def in_torchs_order(values):
    """Channels second: a picture here is square, its channels are others."""
    is_last = values.ndim == 4 and values.shape[1] == values.shape[2]
    return np.moveaxis(values, -1, 1) if is_last else values


def test_litert_computes_what_was_trained(trained, tmp_path):
    artifact = litert_integers(trained, tmp_path)
    # LiteRT's reference kernels round an accumulator twice, to 31 bits and then to 8: of 2^k steps
    # of the first kind, k the shift that is left, one goes the other way. Few large 4-bit products
    # leave a small k, a mean does too.
    twice = {"model relu 2": 0.97, "second_norm batch_norm": 0.97, "model relu 4": 0.94}
    assert_computes_what_was_trained(trained, artifact, {**twice, "model mean": 0.85})


def onnx_integers(trained, root):
    """The integers of every point, from ONNX Runtime."""
    exported = onnx_tools.export_model(trained.workload(), root)
    out = root / "quantized"
    out.mkdir()
    request = StageRequest(
        name="quantize",
        handler="edgekit.compile.onnx:quantize",
        settings={
            "artifact": exported.artifact,
            "quantize": to_plain(SETTINGS),
            "contract": to_plain(exported.contract),
        },
        inputs={
            "float": str(exported.float_folder),
            "calibration": str(trained.calibration),
            "ranges": str(trained.folder),
        },
    )
    answer = onnx_stages.quantize(request, out, SILENT)
    model = onnx.load(out / answer["artifact"]["entry"])
    constants = onnx_tools.constants(model)
    grids = {
        node.output[0]: tuple(
            onnx.numpy_helper.to_array(constants[name]) for name in node.input[1:]
        )
        for node in model.graph.node
        if node.op_type == "QuantizeLinear"
    }
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in grids)
    session = onnx_tools.session(model)
    name = session.get_inputs()[0].name
    runs = [
        session.run(list(grids), {name: trained.images[number : number + 1].numpy()})
        for number in range(SAMPLES)
    ]
    found = {
        name: np.concatenate(items)
        for name, items in zip(grids, zip(*runs, strict=True), strict=True)
    }
    return {
        point: next(
            found[name].astype(int)
            for name, (step, zero) in grids.items()
            if is_grid(float(step), int(zero), wanted)
        )
        for point, wanted in trained.grids.items()
    }


def test_onnx_computes_what_was_trained(trained, tmp_path):
    artifact = onnx_integers(trained, tmp_path)
    assert_computes_what_was_trained(trained, artifact, {})
