"""Small real artifacts, made once a process by the real exporters and quantizers."""

import atexit
import os
import shutil
import tempfile
import warnings
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import nn

LAYERS = ("stem", "depthwise", "pointwise", "classifier")


class ConvNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 3, padding=1)
        self.depthwise = nn.Conv2d(32, 32, 3, padding=1, groups=32)
        self.pointwise = nn.Conv2d(32, 64, 1)
        self.classifier = nn.Linear(64, 10)

    def forward(self, image):
        x = torch.relu(self.stem(image))
        x = torch.relu(self.depthwise(x))
        x = torch.relu(self.pointwise(x))
        return self.classifier(x.mean((2, 3)))


class TextNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(100, 64)
        self.up = nn.Linear(64, 128)
        self.down = nn.Linear(128, 64)
        self.head = nn.Linear(64, 100, bias=False)

    def forward(self, ids):
        x = torch.relu(self.up(self.embed(ids)))
        return self.head(torch.relu(self.down(x)))


class TwoInputs(nn.Module):
    """Inputs and outputs that cannot be taken for one another."""

    def __init__(self):
        super().__init__()
        self.left = nn.Linear(8, 16)
        self.right = nn.Linear(12, 16)

    def forward(self, a, b):
        left, right = self.left(a), self.right(b)
        return left + right, left[:, :4] - right[:, :4]


def images(count=4, seed=0):
    return np.random.default_rng(seed).normal(size=(count, 3, 16, 16)).astype(np.float32)


def token_ids():
    return np.arange(8, dtype=np.int64).reshape(1, 8) * 11


@cache
def modules():
    torch.manual_seed(0)
    return {"conv": ConvNet().eval(), "text": TextNet().eval(), "two": TwoInputs().eval()}


def samples(name):
    if name == "conv":
        return (torch.from_numpy(images(1)),)
    if name == "text":
        return (torch.from_numpy(token_ids()),)
    return (torch.ones(1, 8), torch.ones(1, 12))


@cache
def folder():
    path = Path(tempfile.mkdtemp(prefix="edgekit-artifacts-"))
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return path


@cache
def tflite_path(name):
    import litert_torch

    path = folder() / f"{name}.tflite"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        litert_torch.convert(modules()[name], samples(name)).export(str(path))
    return path


@cache
def float_tflite(name):
    return tflite_path(name).read_bytes()


@cache
def quantized_tflite(name, recipe):
    """recipe: static8, dynamic8, weight8, weight4, static4 (convolutions), dynamic4 (blocks of 32),
    fp16, skip (static8 without the pointwise layer)."""
    from ai_edge_quantizer import quantizer, recipe_manager
    from ai_edge_quantizer.algorithm_manager import AlgorithmName
    from ai_edge_quantizer.qtyping import QuantGranularity, TFLOperationName

    everything = TFLOperationName.ALL_SUPPORTED
    manager = recipe_manager.RecipeManager()
    static = {"activation_num_bits": 8, "weight_num_bits": 8}
    if recipe in ("static8", "static4", "skip"):
        manager.add_static_config(".*", everything, **static)
    if recipe == "static4":
        manager.add_static_config(
            ".*", TFLOperationName.CONV_2D, activation_num_bits=8, weight_num_bits=4
        )
    if recipe == "skip":
        manager.add_quantization_config(
            ".*pointwise.*", everything, algorithm_key=AlgorithmName.NO_QUANTIZE
        )
    if recipe == "dynamic8":
        manager.add_dynamic_config(".*", everything, num_bits=8)
    if recipe == "dynamic4":
        manager.add_dynamic_config(
            ".*", everything, num_bits=4, granularity=QuantGranularity.BLOCKWISE_32
        )
    if recipe in ("weight8", "weight4"):
        manager.add_weight_only_config(".*", everything, num_bits=int(recipe[-1]))
    if recipe == "fp16":
        for operation in (
            TFLOperationName.CONV_2D,
            TFLOperationName.DEPTHWISE_CONV_2D,
            TFLOperationName.FULLY_CONNECTED,
            TFLOperationName.EMBEDDING_LOOKUP,
        ):
            _add_float_casting(manager, operation)
    calibration = {"serving_default": [{"args_0": item[None]} for item in images(8)]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        work = quantizer.Quantizer(str(tflite_path(name)))
        work.load_quantization_recipe(manager.get_quantization_recipe())
        ranges = work.calibrate(calibration) if work.need_calibration else None
        path = folder() / f"{name}-{recipe}.tflite"
        work.quantize(ranges).export_model(str(path), overwrite=True)
    return path.read_bytes()


def _add_float_casting(manager, operation):
    from ai_edge_quantizer.algorithm_manager import AlgorithmName
    from ai_edge_quantizer.qtyping import (
        ComputePrecision,
        OpQuantizationConfig,
        TensorDataType,
        TensorQuantizationConfig,
    )

    manager.add_quantization_config(
        ".*",
        operation,
        OpQuantizationConfig(
            weight_tensor_config=TensorQuantizationConfig(num_bits=16, dtype=TensorDataType.FLOAT),
            compute_precision=ComputePrecision.FLOAT,
            explicit_dequantize=True,
        ),
        algorithm_key=AlgorithmName.FLOAT_CASTING,
    )


@cache
def onnx_path(name):
    path = folder() / f"{name}.onnx"
    axes = {"conv": ({0: torch.export.Dim("batch")},)}.get(name)
    inputs = (torch.from_numpy(images(2)),) if name == "conv" else samples(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            modules()[name],
            inputs,
            str(path),
            dynamo=True,
            external_data=False,
            dynamic_shapes=axes,
            verbose=False,
        )
    return path


@cache
def float_onnx(name):
    return onnx_path(name).read_bytes()


class _Calibration:
    def __init__(self, name):
        self._left = iter([{name: item[None]} for item in images(8)])

    def get_next(self):
        return next(self._left, None)


@cache
def quantized_onnx(name, recipe):
    """recipe: static8 (QDQ), operators8 (QLinear operators), dynamic8, fp16, nbits4, dq4."""
    from onnxruntime.quantization import (
        QuantFormat,
        QuantType,
        quantize_dynamic,
        quantize_static,
    )
    from onnxruntime.quantization.shape_inference import quant_pre_process

    source, path = onnx_path(name), folder() / f"{name}-{recipe}.onnx"
    here = Path.cwd()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        os.chdir(folder())  # the tools leave files of their own in the current folder
        try:
            if recipe in ("static8", "operators8"):
                input_name = onnx.load(source).graph.input[0].name
                quantize_static(
                    source,
                    path,
                    _Calibration(input_name),
                    quant_format=(
                        QuantFormat.QDQ if recipe == "static8" else QuantFormat.QOperator
                    ),
                    per_channel=True,
                    activation_type=QuantType.QUInt8,
                    weight_type=QuantType.QInt8,
                )
            elif recipe == "dynamic8":
                ready = folder() / f"{name}-ready.onnx"
                quant_pre_process(source, ready)
                quantize_dynamic(ready, path, per_channel=True, weight_type=QuantType.QInt8)
            else:
                onnx.save(_rewritten(onnx.load(source), recipe), path)
        finally:
            os.chdir(here)
    return path.read_bytes()


def _rewritten(model, recipe):
    if recipe == "fp16":
        from onnxruntime.transformers.float16 import convert_float_to_float16

        return convert_float_to_float16(model, keep_io_types=True)
    if recipe == "nbits4":
        from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

        work = MatMulNBitsQuantizer(
            model,
            block_size=32,
            is_symmetric=True,
            accuracy_level=4,
            op_types_to_quantize=("MatMul", "Gather"),
            quant_axes=(("MatMul", 0), ("Gather", 1)),
        )
        work.process()
        return work.model.model
    return _with_int4_weights(model)


def _with_int4_weights(model):
    """Every convolution's weight becomes an INT4 constant and a DequantizeLinear, by hand."""
    graph = model.graph
    model.opset_import[0].version = 21
    weights = {item.name: item for item in graph.initializer}
    for node in [item for item in graph.node if item.op_type == "Conv"]:
        name = node.input[1]
        value = onnx.numpy_helper.to_array(weights[name])
        scales = (np.abs(value).reshape(len(value), -1).max(axis=1) / 7).astype(np.float32)
        integers = np.clip(np.rint(value / scales.reshape(-1, 1, 1, 1)), -8, 7).astype(np.int8)
        tensor = onnx.helper.make_tensor(
            f"{name}_int4", onnx.TensorProto.INT4, value.shape, integers.reshape(-1)
        )
        graph.initializer.remove(weights[name])
        graph.initializer.extend([tensor, onnx.numpy_helper.from_array(scales, f"{name}_scale")])
        decode = onnx.helper.make_node(
            "DequantizeLinear", [f"{name}_int4", f"{name}_scale"], [f"{name}_real"], axis=0
        )
        graph.node.insert(0, decode)
        node.input[1] = f"{name}_real"
    return model
