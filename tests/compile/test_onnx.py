import hashlib
import json
import os
import subprocess
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, numpy_helper

from edgekit.compile import onnx as stages
from edgekit.compile.capture import capture
from edgekit.core.codec import to_plain
from edgekit.core.contract import Image, Tensor
from edgekit.core.errors import CompileError, StepError
from edgekit.core.progress import Reporter
from edgekit.core.stage import StageRequest, resolve_handler
from edgekit.core.strategy import Override, Quantize
from edgekit.graph.grid import weight_grid
from edgekit.graph.reader import read_graph
from edgekit.graph.weights import BLOCK_PACKED, weight_layers
from tests.compile import models
from tests.compile.onnx_tools import (
    constants,
    export_model,
    export_request,
    operators,
    session,
    write_samples,
)

STATIC = Quantize(precision="int8", activations="static", is_unsigned=True)
FLOAT_TOLERANCE = 1e-4  # rounding of float32 through a few layers


def draw(shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def draw_ids(samples, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (samples, 16))


def cosine(one, two):
    top = (one * two).sum(-1)
    return top / np.linalg.norm(one, axis=-1) / np.linalg.norm(two, axis=-1)


def torch_output(workload, *inputs):
    with torch.no_grad():
        return workload.model(*(torch.from_numpy(item) for item in inputs))


@pytest.fixture(scope="module")
def cnn(tmp_path_factory):
    return export_model(models.cnn_workload(), tmp_path_factory.mktemp("cnn"))


@pytest.fixture(scope="module")
def wide_cnn(tmp_path_factory):
    return export_model(
        models.cnn_workload(has_dynamic_batch=True), tmp_path_factory.mktemp("wide")
    )


@pytest.fixture(scope="module")
def transformer(tmp_path_factory):
    return export_model(models.transformer_workload(), tmp_path_factory.mktemp("transformer"))


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    samples = [{"image": item} for item in draw((40, 3, 16, 16), seed=1)]
    return write_samples(tmp_path_factory.mktemp("images") / "set", samples)


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    return write_samples(
        tmp_path_factory.mktemp("texts") / "set", [{"ids": ids} for ids in draw_ids(20, seed=1)]
    )


def floats_of(model, feeds):
    run = session(model.float_folder / "model.onnx")
    return np.concatenate([run.run(None, feed)[0] for feed in feeds])


def result_of(folder, feeds):
    run = session(folder / "model.onnx")
    return np.concatenate([run.run(None, feed)[0] for feed in feeds])


def image_feeds(count=16):
    return [{"image": item[None]} for item in draw((count, 3, 16, 16), seed=7)]


def id_feeds(count=16):
    return [{"ids": item[None]} for item in draw_ids(count, seed=7)]


def test_export_computes_what_torch_computes(cnn):
    image = draw((1, 3, 16, 16))
    found = session(cnn.float_folder / "model.onnx").run(None, {"image": image})[0]
    wanted = torch_output(cnn.workload, image).numpy()
    np.testing.assert_allclose(found, wanted, atol=FLOAT_TOLERANCE)


def test_export_folds_batch_norm_and_keeps_no_paths_of_this_machine(cnn):
    model = onnx.load(cnn.float_folder / "model.onnx")
    assert "BatchNormalization" not in operators(model)
    content = (cnn.float_folder / "model.onnx").read_bytes()
    assert b".py" not in content
    assert os.sep.encode() + b"work" not in content


def test_export_uses_the_contracts_names_and_says_where_they_are(cnn):
    model = onnx.load(cnn.float_folder / "model.onnx")
    assert [item.name for item in model.graph.input] == ["image"]
    assert [item.name for item in model.graph.output] == ["logits"]
    assert cnn.artifact["inputs"] == [{"name": "image", "position": 0}]
    assert (cnn.artifact["format"], cnn.artifact["batch"]) == ("onnx", 1)


def test_dynamic_batch_takes_any_batch(wide_cnn):
    assert wide_cnn.artifact["batch"] == 0
    run = session(wide_cnn.float_folder / "model.onnx")
    for size in (1, 4):
        image = draw((size, 3, 16, 16))
        wanted = torch_output(wide_cnn.workload, image).numpy()
        found = run.run(None, {"image": image})[0]
        np.testing.assert_allclose(found, wanted, atol=FLOAT_TOLERANCE)


def test_two_inputs_and_outputs_keep_the_contracts_order(tmp_path):
    model = export_model(models.two_by_two_workload(), tmp_path)
    left, right = draw((1, 12)), draw((1, 20), seed=1)
    wanted = torch_output(model.workload, left, right)
    found = session(tmp_path / "float" / "model.onnx").run(None, {"left": left, "right": right})
    for item, value in zip(model.artifact["outputs"], found, strict=True):
        np.testing.assert_allclose(value, wanted[item["name"]].numpy(), atol=FLOAT_TOLERANCE)


@pytest.mark.parametrize("name", ["cnn", "transformer"])
def test_every_weight_has_the_path_of_its_torch_module(name, request):
    model = request.getfixturevalue(name)
    paths = json.loads((model.float_folder / "tensor_map.json").read_bytes())
    known = {path for path, _ in model.workload.model.named_modules()} | {"positions"}
    weights = [
        item.name
        for item in onnx.load(model.float_folder / "model.onnx").graph.initializer
        if item.data_type == TensorProto.FLOAT and len(item.dims) > 1
    ]
    assert weights
    assert {paths[name] for name in weights} <= known
    layers = {"cnn": {"stem", "depthwise", "classifier"}, "transformer": {"tokens", "layers.0.qkv"}}
    assert layers[name] <= set(paths.values())


def test_an_operator_without_an_onnx_form_is_named_with_its_module(tmp_path):
    class Odd(torch.nn.Module):
        def forward(self, x):
            return torch.special.bessel_j0(x)

    model = torch.nn.Sequential()
    model.add_module("first", torch.nn.Linear(4, 4))
    model.add_module("odd", Odd())
    workload = models.workload_of(model.eval(), {"x": Tensor(shape=(4,))}, ["y"])
    with pytest.raises(CompileError, match=r"bessel_j0.*at module 'odd'"):
        export_model(workload, tmp_path)


def test_a_contract_of_another_shape_is_refused(cnn, tmp_path):
    workload = models.workload_of(
        models.trained_like(models.SmallCnn()), {"image": Image(height=12, width=12)}, ["logits"]
    )
    (tmp_path / "other").mkdir()
    contract = capture(workload, tmp_path / "other", Reporter(stage="test")).contract
    request = export_request(cnn.root / "model", contract)
    with pytest.raises(CompileError, match=r"'image'.*16.*12"):
        stages.export(request, tmp_path, Reporter(stage="test"))


def test_static_int8_turns_every_layer_into_integer_kernels(cnn, images, tmp_path):
    answer, _ = cnn.quantize(tmp_path / "q", STATIC, images)
    assert answer["changed"]
    assert answer["artifact"]["precision"] == "int8"
    session(tmp_path / "q" / "model.onnx", optimized=tmp_path / "run.onnx")
    ran = operators(onnx.load(tmp_path / "run.onnx"))
    assert ran.count("QLinearConv") == 4
    assert "QGemm" in ran
    assert "Conv" not in ran


def test_static_int8_stays_near_float(cnn, images, tmp_path):
    cnn.quantize(tmp_path / "q", STATIC, images)
    feeds = image_feeds()
    # 8 bits in 6 layers in a row: a few per cent of the signal at most.
    assert cosine(floats_of(cnn, feeds), result_of(tmp_path / "q", feeds)).min() > 0.99


@pytest.mark.parametrize(("is_unsigned", "stored"), [(True, "uint8"), (False, "int8")])
def test_activations_have_the_sign_that_was_asked_for(cnn, images, tmp_path, is_unsigned, stored):
    settings = Quantize(precision="int8", activations="static", is_unsigned=is_unsigned)
    cnn.quantize(tmp_path / "q", settings, images)
    model = onnx.load(tmp_path / "q" / "model.onnx")
    found = {
        numpy_helper.to_array(constants(model)[node.input[2]]).dtype.name
        for node in model.graph.node
        if node.op_type == "QuantizeLinear"
    }
    assert found == {stored}


def test_convolutions_keep_float_biases_and_still_run_in_integers(cnn, images, tmp_path):
    cnn.quantize(tmp_path / "q", STATIC, images)
    file = tmp_path / "q" / "model.onnx"
    model = onnx.load(file)
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    stored = {constants(model)[node.input[2]].data_type for node in convolutions}
    assert stored == {TensorProto.FLOAT}
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "loaded.onnx")
    onnxruntime.InferenceSession(file, options)
    loaded = [node.op_type for node in onnx.load(tmp_path / "loaded.onnx").graph.node]
    assert (loaded.count("QLinearConv"), loaded.count("Conv")) == (len(convolutions), 0)


def test_dynamic_batch_survives_static_quantization(wide_cnn, images, tmp_path):
    wide_cnn.quantize(tmp_path / "q", STATIC, images)
    run = session(tmp_path / "q" / "model.onnx")
    assert run.run(None, {"image": draw((5, 3, 16, 16))})[0].shape == (5, 10)


def test_static_int4_stores_four_bits_and_runs_in_integer_kernels(cnn, images, tmp_path):
    settings = Quantize(precision="int4", activations="static", is_unsigned=True)
    cnn.quantize(tmp_path / "q", settings, images)
    model = onnx.load(tmp_path / "q" / "model.onnx")
    paths = json.loads((tmp_path / "q" / "tensor_map.json").read_bytes())
    stored = {
        paths[item.name]: item.data_type for item in model.graph.initializer if len(item.dims) > 1
    }
    # First, last and depthwise layers stay at 8 bits.
    assert stored == {
        "stem": TensorProto.INT8,
        "body": TensorProto.INT4,
        "depthwise": TensorProto.INT8,
        "pointwise": TensorProto.INT4,
        "classifier": TensorProto.INT8,
    }
    session(tmp_path / "q" / "model.onnx", optimized=tmp_path / "run.onnx")
    assert operators(onnx.load(tmp_path / "run.onnx")).count("QLinearConv") == 4


def test_static_int4_stays_recognisably_near_float(cnn, images, tmp_path):
    settings = Quantize(precision="int4", activations="static", is_unsigned=True)
    cnn.quantize(tmp_path / "q", settings, images)
    feeds = image_feeds()
    # Random weights on 15 steps: about a tenth of each layer's signal is noise.
    assert cosine(floats_of(cnn, feeds), result_of(tmp_path / "q", feeds)).min() > 0.9


@pytest.mark.parametrize("precision", ["int4", "int8"])
def test_weights_only_equal_the_dequantized_weights_by_hand(cnn, tmp_path, precision):
    settings = Quantize(precision=precision, activations="none", keep_first_last_int8=False)
    cnn.quantize(tmp_path / "q", settings)
    model = onnx.load(tmp_path / "q" / "model.onnx")
    floats = onnx.load(cnn.float_folder / "model.onnx")
    found = constants(model)
    for tensor in floats.graph.initializer:
        if f"{tensor.name}_quantized" in found:
            steps = numpy_helper.to_array(found[f"{tensor.name}_quantized"]).astype(np.float32)
            scale = numpy_helper.to_array(found[f"{tensor.name}_scale"])
            tensor.CopyFrom(numpy_helper.from_array(steps * scale, tensor.name))
    feeds = image_feeds(4)
    by_hand = np.concatenate([session(floats).run(None, feed)[0] for feed in feeds])
    np.testing.assert_allclose(result_of(tmp_path / "q", feeds), by_hand, atol=FLOAT_TOLERANCE)


def test_weights_only_integers_are_folded_when_the_model_is_loaded(cnn, tmp_path):
    cnn.quantize(tmp_path / "q", Quantize(precision="int4", activations="none"))
    session(tmp_path / "q" / "model.onnx", optimized=tmp_path / "run.onnx")
    assert not {"Cast", "Mul"} & set(operators(onnx.load(tmp_path / "run.onnx")))


def test_dynamic_int8_of_a_transformer_includes_the_embedding(transformer, tmp_path):
    answer, _ = transformer.quantize(
        tmp_path / "q", Quantize(precision="int8", activations="dynamic")
    )
    model = onnx.load(tmp_path / "q" / "model.onnx")
    assert operators(model).count("MatMulInteger") == 8
    left = [
        item.name
        for item in model.graph.initializer
        if item.data_type == TensorProto.FLOAT and len(item.dims) > 1 and min(item.dims) > 1
    ]
    assert left == ["positions"]
    assert answer["notes"] == []
    feeds = id_feeds()
    assert cosine(floats_of(transformer, feeds), result_of(tmp_path / "q", feeds)).min() > 0.99


def test_int4_blocks_of_a_transformer_use_the_block_kernels(transformer, tmp_path):
    settings = Quantize(
        precision="int4", activations="dynamic", block_size=32, keep_first_last_int8=False
    )
    transformer.quantize(tmp_path / "q", settings)
    model = onnx.load(tmp_path / "q" / "model.onnx")
    assert operators(model).count("MatMulNBits") == 8
    assert "GatherBlockQuantized" in operators(model)
    paths = json.loads((tmp_path / "q" / "tensor_map.json").read_bytes())
    assert {"tokens", "layers.0.qkv", "layers.1.down"} <= set(paths.values())
    feeds = id_feeds()
    assert cosine(floats_of(transformer, feeds), result_of(tmp_path / "q", feeds)).mean() > 0.95


BLOCKS = Quantize(precision="int4", activations="none", block_size=32, keep_first_last_int8=False)


def rows_of(artifact, feeds):
    """What a .onnx with a table of tokens looks up."""
    model = onnx.load(artifact)
    node = next(item for item in model.graph.node if item.op_type.startswith("Gather"))
    rows = node.output[0]
    model.graph.output.append(onnx.helper.make_tensor_value_info(rows, TensorProto.FLOAT, None))
    run = session(model)
    return np.concatenate([run.run([rows], feed)[0] for feed in feeds])


def kinds_of_scales(model):
    """What the scales of blocks are stored as, and how many weights have them."""
    kinds = {item.name: item.data_type for item in model.graph.initializer}
    casts = {node.output[0]: node.input[0] for node in model.graph.node if node.op_type == "Cast"}
    scales = [node.input[2] for node in model.graph.node if node.op_type in BLOCK_PACKED]
    return {kinds[casts.get(name, name)] for name in scales}, len(scales)


def test_scales_of_blocks_take_two_bytes_and_compute_as_float32(transformer, tmp_path):
    """ONNX Runtime folds the Cast when it loads the file, so its kernels get constants."""
    transformer.quantize(tmp_path / "q", BLOCKS)
    path = tmp_path / "q" / "model.onnx"
    assert kinds_of_scales(onnx.load(path)) == ({TensorProto.FLOAT16}, 9)
    session(path, optimized=tmp_path / "folded.onnx")
    assert kinds_of_scales(onnx.load(tmp_path / "folded.onnx")) == ({TensorProto.FLOAT}, 9)


def test_a_file_with_short_scales_says_the_values_that_onnx_runtime_looks_up(transformer, tmp_path):
    transformer.quantize(tmp_path / "q", BLOCKS)
    path = tmp_path / "q" / "model.onnx"
    graph = read_graph(path.read_bytes(), name="model.onnx")
    table = next(item for item in weight_layers(graph) if item.operator.name == BLOCK_PACKED[1])
    grid = weight_grid(graph, table)
    feeds = id_feeds()
    ids = np.concatenate([feed["ids"] for feed in feeds])
    np.testing.assert_array_equal(rows_of(path, feeds), grid.values[ids])


def test_a_table_of_tokens_in_blocks_loses_less_than_with_onnx_runtimes_own_scales(
    transformer, tmp_path
):
    transformer.quantize(tmp_path / "q", BLOCKS)
    feeds = id_feeds()
    wanted = rows_of(transformer.float_folder / "model.onnx", feeds)
    found = rows_of(tmp_path / "q" / "model.onnx", feeds)
    blocks = wanted.reshape(*wanted.shape[:-1], -1, 32)
    own = np.take_along_axis(blocks, np.abs(blocks).argmax(-1)[..., None], axis=-1) / -8
    plain = (np.clip(np.rint(blocks / own), -8, 7) * own).reshape(wanted.shape)
    assert ((found - wanted) ** 2).sum() < 0.9 * ((plain - wanted) ** 2).sum()


@pytest.mark.parametrize("block", [0, 32])
def test_int4_without_integer_activations_runs_near_float(transformer, tmp_path, block):
    settings = Quantize(precision="int4", activations="none", block_size=block)
    transformer.quantize(tmp_path / "q", settings)
    feeds = id_feeds()
    assert cosine(floats_of(transformer, feeds), result_of(tmp_path / "q", feeds)).mean() > 0.95


def test_int4_a_channel_at_run_time_uses_the_kernels_of_int8(transformer, tmp_path):
    transformer.quantize(tmp_path / "q", Quantize(precision="int4", activations="dynamic"))
    model = onnx.load(tmp_path / "q" / "model.onnx")
    assert operators(model).count("MatMulInteger") == 8
    kinds = [item.data_type for item in model.graph.initializer if len(item.dims) > 1]
    assert kinds.count(TensorProto.INT4) == 7  # all but the last layer
    feeds = id_feeds()
    assert cosine(floats_of(transformer, feeds), result_of(tmp_path / "q", feeds)).mean() > 0.9


def test_static_int8_of_a_transformer_is_done_as_asked(transformer, texts, tmp_path):
    transformer.quantize(tmp_path / "q", STATIC, texts)
    assert operators(onnx.load(tmp_path / "q" / "model.onnx")).count("QuantizeLinear") > 10
    assert np.isfinite(result_of(tmp_path / "q", id_feeds(2))).all()


def test_static_int4_of_a_transformer_says_that_blocks_are_not_used(transformer, texts, tmp_path):
    settings = Quantize(
        precision="int4",
        activations="static",
        is_unsigned=True,
        block_size=32,
        keep_first_last_int8=False,
    )
    answer, _ = transformer.quantize(tmp_path / "q", settings, texts)
    assert "no blocks" in answer["notes"][0]
    assert "GatherBlockQuantized" in operators(onnx.load(tmp_path / "q" / "model.onnx"))
    assert np.isfinite(result_of(tmp_path / "q", id_feeds(2))).all()


def test_a_block_size_that_no_kernel_takes_is_refused(transformer, tmp_path):
    settings = Quantize(precision="int4", activations="dynamic", block_size=24)
    with pytest.raises(StepError, match="block_size is 24"):
        transformer.quantize(tmp_path / "q", settings)


def test_dynamic_int8_of_a_conv_net_is_done_and_called_slow(cnn, tmp_path):
    answer, events = cnn.quantize(tmp_path / "q", Quantize(precision="int8", activations="dynamic"))
    assert "ConvInteger" in operators(onnx.load(tmp_path / "q" / "model.onnx"))
    assert "slower than float" in answer["notes"][0]
    assert any(event.kind == "warning" for event in events)
    feeds = image_feeds()
    assert cosine(floats_of(cnn, feeds), result_of(tmp_path / "q", feeds)).min() > 0.99


def test_dynamic_int4_of_a_conv_net_keeps_small_weights_only(cnn, tmp_path):
    answer, _ = cnn.quantize(tmp_path / "q", Quantize(precision="int4", activations="dynamic"))
    assert "only the weights" in answer["notes"][0]
    assert "ConvInteger" not in operators(onnx.load(tmp_path / "q" / "model.onnx"))


def test_float16_weights_are_half_the_bytes_and_folded_at_load(cnn, tmp_path):
    cnn.quantize(tmp_path / "q", Quantize(precision="fp16", activations="none"))
    model = onnx.load(tmp_path / "q" / "model.onnx")
    kinds = {item.data_type for item in model.graph.initializer if len(item.dims) > 1}
    assert kinds == {TensorProto.FLOAT16}
    session(tmp_path / "q" / "model.onnx", optimized=tmp_path / "run.onnx")
    assert "Cast" not in operators(onnx.load(tmp_path / "run.onnx"))
    feeds = image_feeds()
    # float16 keeps 11 bits: a relative error of 5e-4 a weight.
    np.testing.assert_allclose(result_of(tmp_path / "q", feeds), floats_of(cnn, feeds), atol=2e-2)


def test_float16_with_activations_computes_in_float16(cnn, tmp_path):
    cnn.quantize(tmp_path / "q", Quantize(precision="fp16", activations="static"))
    model = onnx.load(tmp_path / "q" / "model.onnx")
    assert model.graph.input[0].type.tensor_type.elem_type == TensorProto.FLOAT
    inferred = onnx.shape_inference.infer_shapes(model)
    inner = {item.name: item.type.tensor_type.elem_type for item in inferred.graph.value_info}
    convolutions = [node.output[0] for node in model.graph.node if node.op_type == "Conv"]
    assert {inner[name] for name in convolutions} == {TensorProto.FLOAT16}
    feeds = image_feeds()
    np.testing.assert_allclose(result_of(tmp_path / "q", feeds), floats_of(cnn, feeds), atol=5e-2)


def stored_types(folder):
    model = onnx.load(folder / "model.onnx")
    paths = json.loads((folder / "tensor_map.json").read_bytes())
    return {
        paths[item.name]: item.data_type
        for item in model.graph.initializer
        if len(item.dims) > 1 and item.name in paths
    }


@pytest.mark.parametrize("activations", ["static", "dynamic", "none"])
def test_overrides_set_the_precision_of_single_layers(cnn, images, tmp_path, activations):
    settings = Quantize(
        precision="int8",
        activations=activations,
        is_unsigned=True,
        overrides=(
            Override(pattern="^body$", precision="float"),
            Override(pattern="^pointwise$", precision="int4"),
            Override(pattern="^stem$", precision="fp16"),
        ),
    )
    cnn.quantize(tmp_path / "q", settings, images)
    assert stored_types(tmp_path / "q") == {
        "stem": TensorProto.FLOAT16,
        "body": TensorProto.FLOAT,
        "depthwise": TensorProto.INT8,
        "pointwise": TensorProto.INT4,
        "classifier": TensorProto.INT8,
    }


@pytest.mark.parametrize("activations", ["static", "none"])
def test_overrides_work_on_float16_too(cnn, tmp_path, activations):
    settings = Quantize(
        precision="fp16",
        activations=activations,
        overrides=(
            Override(pattern="^body$", precision="float"),
            Override(pattern="^pointwise$", precision="int8"),
        ),
    )
    cnn.quantize(tmp_path / "q", settings)
    found = stored_types(tmp_path / "q")
    assert found["stem"] == TensorProto.FLOAT16
    assert found["body"] == TensorProto.FLOAT
    assert found["pointwise"] == TensorProto.INT8
    session(tmp_path / "q" / "model.onnx")


def test_an_override_that_matches_nothing_is_told(cnn, tmp_path):
    settings = Quantize(
        precision="int8",
        activations="none",
        overrides=(Override(pattern="clasifier", precision="float"),),
    )
    _, events = cnn.quantize(tmp_path / "q", settings)
    assert any(event.kind == "warning" and "'clasifier'" in event.message for event in events)


def test_an_override_that_is_no_pattern_is_refused(cnn, tmp_path):
    settings = Quantize(
        precision="int8",
        activations="none",
        overrides=(Override(pattern="(", precision="float"),),
    )
    with pytest.raises(StepError, match=r"'\('.*regular expression"):
        cnn.quantize(tmp_path / "q", settings)


def test_all_layers_left_float_changes_nothing_and_says_so(cnn, tmp_path):
    settings = Quantize(
        precision="int8",
        activations="none",
        overrides=(Override(pattern=".", precision="float"),),
    )
    answer, _ = cnn.quantize(tmp_path / "q", settings)
    assert answer["changed"] is False


def test_nothing_but_the_results_is_left_in_the_folder(cnn, images, tmp_path):
    cnn.quantize(tmp_path / "q", STATIC, images)
    assert sorted(item.name for item in (tmp_path / "q").iterdir()) == [
        "calibration.json",
        "model.onnx",
        "tensor_map.json",
    ]


def test_the_tools_print_nothing(cnn, images, tmp_path, capfd):
    cnn.quantize(tmp_path / "q", STATIC, images)
    printed = capfd.readouterr()
    assert (printed.out, printed.err) == ("", "")


def test_progress_is_told_while_calibration_runs(cnn, images, tmp_path):
    _, events = cnn.quantize(tmp_path / "q", STATIC, images)
    fractions = [item.fraction for item in events if item.message == "calibration"]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0


SCRIPT = """
import json, pathlib, sys
from edgekit.compile import onnx as stages
from edgekit.core.progress import Reporter
from edgekit.core.stage import StageRequest
model, calibration, contract, out = sys.argv[1:]
contract, out = json.loads(contract), pathlib.Path(out)
reporter = Reporter(stage="test")
def run(handler, name, settings, **inputs):
    (out / name).mkdir(parents=True)
    request = StageRequest(name=name, handler="", settings=settings, inputs=inputs)
    return handler(request, out / name, reporter)["artifact"]
float_ = run(stages.export, "float", {"contract": contract}, model=model)
for name, settings in (
    ("int8", {"precision": "int8", "activations": "static", "is_unsigned": True}),
    ("int4", {"precision": "int4", "activations": "static", "is_unsigned": True}),
    ("dynamic", {"precision": "int8", "activations": "dynamic"}),
    ("fp16", {"precision": "fp16", "activations": "static"}),
):
    settings = {"artifact": float_, "quantize": settings, "contract": contract}
    run(stages.quantize, name, settings, float=str(out / "float"), calibration=calibration)
"""


def test_two_processes_write_the_same_bytes(cnn, images, tmp_path):
    digests = []
    for seed in ("1", "2"):
        out = tmp_path / seed
        contract = json.dumps(to_plain(cnn.contract))
        command = [sys.executable, "-W", "ignore", "-c", SCRIPT, str(cnn.root / "model")]
        subprocess.run(
            [*command, str(images), contract, str(out)],
            check=True,
            env={**os.environ, "PYTHONHASHSEED": seed},
        )
        digests.append(
            {
                str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest()
                for path in sorted(out.rglob("*"))
                if path.is_file()
            }
        )
    assert len(digests[0]) == 12
    assert digests[0] == digests[1]


def ort_request(folder, artifact, platform):
    return StageRequest(
        name="ort",
        handler="edgekit.compile.onnx:to_ort",
        settings={"artifact": artifact, "platform": platform},
        inputs={"artifact": str(folder)},
    )


@pytest.mark.parametrize("platform", ["arm", "amd64"])
def test_ort_computes_what_the_onnx_file_computes(cnn, images, tmp_path, platform):
    settings = Quantize(precision="int8", activations="static", is_unsigned=platform == "amd64")
    answer, _ = cnn.quantize(tmp_path / "q", settings, images)
    (tmp_path / "ort").mkdir()
    handler = resolve_handler("edgekit.compile.onnx:to_ort")
    request = ort_request(tmp_path / "q", answer["artifact"], platform)
    made = handler(request, tmp_path / "ort", Reporter(stage="test"))
    assert (made["artifact"]["format"], made["artifact"]["entry"]) == ("ort", "model.ort")
    feeds = image_feeds()
    run = session(tmp_path / "ort" / "model.ort")
    found = np.concatenate([run.run(None, feed)[0] for feed in feeds])
    wanted = result_of(tmp_path / "q", feeds)
    # One step of the output's grid: fused kernels may round the other way.
    step = np.abs(wanted).max() / 60
    np.testing.assert_allclose(found, wanted, atol=step)


def test_ort_says_when_four_bits_become_eight(transformer, tmp_path):
    answer, _ = transformer.quantize(tmp_path / "q", Quantize(precision="fp16", activations="none"))
    (tmp_path / "ort").mkdir()
    request = ort_request(tmp_path / "q", answer["artifact"], "arm")
    made = stages.to_ort(request, tmp_path / "ort", Reporter(stage="test"))
    assert "as they are computed with" in made["notes"][1]
    assert made["notes"][0].startswith("not deterministic")


def test_ort_for_an_unknown_platform_is_refused(cnn, tmp_path):
    request = ort_request(cnn.float_folder, cnn.artifact, "mips")
    with pytest.raises(StepError, match=r"'mips'.*arm, amd64"):
        stages.to_ort(request, tmp_path, Reporter(stage="test"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("precision", "share", "drop"), [("int8", 0.31, 0.5), ("int4", 0.20, 2.0), ("fp16", 0.53, 0.1)]
)
def test_resnet20_reaches_its_share_of_bytes_and_keeps_its_accuracy(
    data_dir, tmp_path, precision, share, drop
):
    """On the first 1,000 dev images; the drop allowed covers the noise of so few."""
    image = Image(height=32, width=32, mean=models.CIFAR_MEAN, deviation=models.CIFAR_DEVIATION)
    workload = models.workload_of(
        models.pretrained_resnet(data_dir, 20), {"image": image}, ["logits"]
    )
    model = export_model(workload, tmp_path / "resnet")
    train, _ = models.cifar_images(data_dir / "cifar10_train5000_jpeg.npz")
    samples = write_samples(tmp_path / "set", [{"image": item} for item in train[:128]])
    activations = "none" if precision == "fp16" else "static"
    settings = Quantize(precision=precision, activations=activations, is_unsigned=True)
    model.quantize(tmp_path / "q", settings, samples)
    pixels, labels = models.cifar_images(data_dir / "cifar10_test_dev2000_jpeg.npz")
    feeds = [{"image": item[None]} for item in pixels[:1000]]
    right = [
        (found.argmax(1) == labels[:1000]).mean() * 100
        for found in (floats_of(model, feeds), result_of(tmp_path / "q", feeds))
    ]
    assert right[0] - right[1] <= drop
    # Names are still in both files here; stripping takes more from the smaller one.
    sizes = [
        (folder / "model.onnx").stat().st_size for folder in (model.float_folder, tmp_path / "q")
    ]
    assert sizes[1] / sizes[0] <= share


def test_rows_that_are_no_whole_blocks_are_told_with_what_they_cost(transformer, tmp_path):
    def told(block, activations="dynamic"):
        settings = Quantize(precision="int4", activations=activations, block_size=block)
        answer, _ = transformer.quantize(tmp_path / f"{block}-{activations}", settings)
        return [note for note in answer["notes"] if "no whole blocks" in note]

    width = transformer.workload.model.tokens.weight.shape[1]
    assert told(width) == []
    for activations in ("dynamic", "none"):
        (note,) = told(4 * width, activations)
        assert f"no whole blocks of {4 * width} are filled up" in note
        assert "layers.0.up" in note
        assert "layers.0.down" not in note
