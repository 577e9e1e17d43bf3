"""Models with 4-bit weights, made and read by LiteRT's own schema, and a bundle of one."""

from functools import cache

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from edgekit.compile.strip_tflite import strip_tflite
from edgekit.core.contract import Contract, InputContract, Output, OutputContract, Tensor
from tests.graph import artifacts
from tests.runtime.conftest import Model, seal

SHAPE = (3, 16, 16)
CONVOLUTIONS = ("CONV_2D", "DEPTHWISE_CONV_2D")
# What has no fast kernel for 4 bits.
WIDENED = (*CONVOLUTIONS, "DEQUANTIZE")
INT4, INT8 = schema.TensorType.INT4, schema.TensorType.INT8


def packed(model):
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


def unpacked(content):
    return schema.ModelT.InitFromPackedBuf(content, 0)


def stored(content, buffer):
    """A buffer's bytes, inside the flatbuffer or behind it."""
    if buffer.offset > 1:
        return np.frombuffer(content, np.uint8, buffer.size, buffer.offset)
    return np.asarray([] if buffer.data is None else buffer.data, np.uint8)


def values_of(content, model, tensor):
    """Integers by hand: of 4 bits the first in the low half of a byte, in two's complement."""
    raw = stored(content, model.buffers[tensor.buffer])
    if tensor.type != INT4:
        return raw.view(np.int8)
    halves = np.stack([raw & 15, raw >> 4], axis=1).reshape(-1).astype(np.int16)
    return np.where(halves > 7, halves - 16, halves).astype(np.int8)[: np.prod(tensor.shape)]


def readers(model):
    """Tensors that are the weights of operators, by the operator's name."""
    names = {code: name for name, code in vars(schema.BuiltinOperator).items() if name.isupper()}
    named = [
        (names[model.operatorCodes[item.opcodeIndex].builtinCode], item)
        for item in model.subgraphs[0].operators
    ]
    return [
        (name, int(item.inputs[0 if name == "DEQUANTIZE" else 1]))
        for name, item in named
        if name == "DEQUANTIZE" or len(item.inputs) > 1
    ]


def narrowed(content, operators):
    """A stripped file whose 8-bit weights of these operators keep their upper 4 bits."""
    model = unpacked(content)
    for index in {index for name, index in readers(model) if name in operators}:
        tensor = model.subgraphs[0].tensors[index]
        values = values_of(content, model, tensor) >> 4
        pairs = np.pad(values, (0, len(values) % 2)).view(np.uint8) & 15
        model.buffers.append(schema.BufferT(data=pairs[::2] | (pairs[1::2] << 4)))
        tensor.buffer, tensor.type = len(model.buffers) - 1, INT4
        tensor.quantization.scale = tensor.quantization.scale * np.float32(16)
    return packed(model)


@cache
def stripped(recipe):
    return strip_tflite(artifacts.quantized_tflite("conv", recipe), "m")


@cache
def models():
    """4-bit weights as ai-edge-quantizer and edgekit store them, and every other kind."""
    return {
        "buffers behind the model": artifacts.quantized_tflite("conv", "static4"),
        "stripped": stripped("static4"),
        "static": narrowed(stripped("static8"), CONVOLUTIONS),
        # LiteRT has no depthwise kernel for 4 bits beside floats.
        "dynamic": narrowed(stripped("dynamic8"), ("CONV_2D",)),
        "weights alone": narrowed(stripped("weight8"), ("DEQUANTIZE",)),
    }


def first_weight(model):
    return next(index for name, index in readers(model) if name == "CONV_2D")


def another_has_its_bytes(model):
    weight = model.subgraphs[0].tensors[first_weight(model)]
    other = schema.TensorT()
    other.shape = np.array([len(model.buffers[weight.buffer].data)], np.int32)
    other.type, other.buffer = schema.TensorType.UINT8, weight.buffer
    model.subgraphs[0].tensors.append(other)


@cache
def with_a_kept_weight():
    """One of its three convolutions shares its bytes with a tensor that is something else."""
    model = unpacked(models()["static"])
    another_has_its_bytes(model)
    return packed(model)


def contract():
    """What the models take and give."""
    image = InputContract(
        name="image", dtype="float32", shape=(1, *SHAPE), source=Tensor(shape=SHAPE)
    )
    scores = OutputContract(name="scores", dtype="float32", shape=(1, 10), meaning=Output())
    return Contract(inputs=(image,), outputs=(scores,))


def seal_kept_weight(out):
    """A bundle of it; its golden outputs are not looked at."""
    golden = {"image": artifacts.images(1)}, {"scores": np.zeros((1, 10), np.float32)}
    model = Model(with_a_kept_weight(), "tflite", "litert", 1)
    return seal(out, model, *golden, contract=contract())
