"""Calibration of a .tflite: the same samples and method give the ranges that ONNX gets."""

import json

import numpy as np
import pytest

from edgekit.compile import litert
from edgekit.compile import onnx as onnx_compiler
from edgekit.core.calibration import Calibration
from edgekit.core.codec import to_plain
from edgekit.core.errors import StepError
from edgekit.core.progress import Reporter
from edgekit.core.stage import StageRequest
from edgekit.core.strategy import Quantize
from edgekit.data.dataset import DatasetWriter
from edgekit.graph.reader import read_graph
from tests.compile.conftest import quantize_request, write_calibration

METHODS = ("auto", "min_max", "moving_average", "percentile", "entropy", "mse")


def static(**settings):
    return Quantize(precision="int8", activations="static", **settings)


def made_by(model, operator):
    """The names of the tensors that such operators give."""
    content = (model.folder / model.artifact["entry"]).read_bytes()
    subgraph = read_graph(content, name="x").subgraphs[0]
    made = [item for item in subgraph.operators if item.name == operator]
    return {subgraph.tensors[index].name for item in made for index in item.outputs}


@pytest.fixture(scope="module")
def both(exported, tmp_path_factory):
    """Gives the kept calibration of each target for some settings."""
    model, root = exported("cnn"), tmp_path_factory.mktemp("both")
    calibration = write_calibration(model, root / "calibration", 20)
    (root / "onnx").mkdir()
    request = StageRequest(
        name="export",
        handler="",
        settings={"contract": to_plain(model.contract)},
        inputs={"model": str(model.captured)},
    )
    answer = onnx_compiler.export(request, root / "onnx", Reporter(stage="test"))

    def calibrate(settings, name):
        found = {}
        ours = quantize_request(model, settings, calibration)
        theirs = StageRequest(
            name="quantize",
            handler="",
            settings={**ours.settings, "artifact": answer["artifact"]},
            inputs={**ours.inputs, "float": str(root / "onnx")},
        )
        for target, stage, item in (
            ("litert", litert, ours),
            ("onnx", onnx_compiler, theirs),
        ):
            out = root / f"{name}-{target}"
            out.mkdir()
            values = stage.quantize(item, out, Reporter(stage="test"))
            kept = json.loads((out / "calibration.json").read_bytes())["ranges"]
            found[target] = (values, {key: (it["low"], it["high"]) for key, it in kept.items()})
            compared = stage.compare_ranges(
                StageRequest(
                    name="compare",
                    handler="",
                    settings={"artifact": item.settings["artifact"], "contract": None},
                    inputs={
                        "float": item.inputs["float"],
                        "quantized": str(out),
                        "data": str(calibration),
                    },
                ),
                root / f"{name}-{target}",
                Reporter(stage="test"),
            )
            found[target] += (compared,)
        return found

    return calibrate


@pytest.mark.parametrize("method", METHODS)
def test_a_tensor_gets_the_same_range_on_both_targets(both, exported, method):
    found = both(static(calibration=Calibration(method=method)), method)
    theirs = np.array(list(found["onnx"][1].values()))
    assert len(found["litert"][1]) >= 6
    # A PAD of LiteRT's own has the range of its input, whatever is counted of its zeros.
    padded = made_by(exported("cnn"), "PAD")
    for name, ends in found["litert"][1].items():
        if name in padded:
            continue
        # The graphs name tensors in their own ways; the kernels differ by float32's last digits.
        difference = np.abs(theirs - np.array(ends)).max(1).min() / (ends[1] - ends[0])
        # Near its least the divergence is flat, and candidates are a hundredth apart.
        assert difference < (0.1 if method == "entropy" else 1e-3), name


def test_what_calibration_found_is_returned_and_fits_its_own_data(both):
    found = both(static(calibration=Calibration(method="min_max")), "own")
    for values, ranges, compared in found.values():
        assert values["calibration"]["samples"] == 20
        assert [item["samples"] for item in values["calibration"]["convergence"]][-1] in (10, 16)
        assert any("of the 20 samples differ" in note for note in values["notes"])
        assert compared["share"] == 0
        assert {item["tensor"] for item in compared["worst"]} <= set(ranges)


def test_symmetric_activations_have_zero_in_the_middle(both, tmp_path, exported):
    settings = static(has_symmetric_activations=True, is_integer_only=True)
    found = both(settings, "symmetric")
    for _, ranges, _ in found.values():
        assert all(low == -high for low, high in ranges.values())
    model = exported("cnn")
    out = tmp_path / "out"
    out.mkdir()
    calibration = write_calibration(model, tmp_path / "calibration")
    answer = litert.quantize(
        quantize_request(model, settings, calibration), out, Reporter(stage="test")
    )
    graph = read_graph((out / answer["artifact"]["entry"]).read_bytes(), name="x")
    points = [
        int(point)
        for item in graph.subgraphs[0].tensors
        if item.dtype == "int8" and not item.is_constant and item.quantization is not None
        for point in item.quantization.zero_points
    ]
    assert points
    assert set(points) == {0}


def test_samples_that_are_not_finite_are_refused_by_the_tensors_name(exported, tmp_path):
    model = exported("mlp")
    with DatasetWriter(tmp_path / "calibration") as writer:
        writer.append({"x": np.full(64, np.nan, np.float32)})
    (tmp_path / "out").mkdir()
    with pytest.raises(StepError, match=r"tensor '.*' takes the value nan"):
        litert.quantize(
            quantize_request(model, static(), tmp_path / "calibration"),
            tmp_path / "out",
            Reporter(stage="test"),
        )
