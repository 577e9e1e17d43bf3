"""Integers with scales found at run time, and INT4 matrices in blocks."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

from edgekit.compile.onnx_grid import (
    INT4_MAX,
    INT4_MIN,
    Array,
    int4_blocks,
    int4_scales,
    int4_tensor,
    packed_blocks,
    round_to_grid,
)
from edgekit.compile.onnx_layers import Layer
from edgekit.compile.onnx_model import (
    array_of,
    attribute,
    explained,
    hidden_reads,
    initializers,
    replace_initializers,
    replace_nodes,
)
from edgekit.compile.onnx_unsaturated import unsaturated
from edgekit.core.errors import StepError
from edgekit.core.strategy import Quantize

DYNAMIC_OPERATORS = ("MatMul", "Conv", "LSTM")
# MatMulNBits and GatherBlockQuantized take powers of two from 16.
MIN_BLOCK = 16
EMBEDDING_BLOCK = 32
# MatMulNBits: 4 quantizes activations to INT8 in blocks, 1 computes in float32.
INTEGER_COMPUTE, FLOAT_COMPUTE = 4, 1
_QUANTIZED, _SCALE = "_quantized", "_scale"
_IN_BLOCKS, _TABLE = "_Q4", "GatherBlockQuantized"
# Which input has the integers; the scales are the third of both.
_BLOCK_INTEGERS = {"MatMulNBits": 1, _TABLE: 0}


def split_gemms(model: onnx.ModelProto) -> None:
    """Write each plain ``Gemm`` as ``MatMul`` and ``Add``: only MatMul has dynamic kernels.

    Names of weights stay. A Gemm with factors or a transposed input is left alone, and so is one
    whose transposed weight is read in another way too.
    """
    constants, otherwise = initializers(model), hidden_reads(model)
    for node in model.graph.node:
        is_turned = _is_plain(node) and attribute(node, "transB", 0)
        otherwise |= {name for at, name in enumerate(node.input) if not is_turned or at != 1}
    nodes: list[onnx.NodeProto] = []
    turned: set[str] = set()
    for node in model.graph.node:
        if not _is_plain(node) or node.input[1] not in constants:
            nodes.append(node)
            continue
        name = node.input[1]
        if attribute(node, "transB", 0):
            if name in otherwise:
                nodes.append(node)
                continue
            turned.add(name)
        nodes.extend(_as_matmul(node))
    for name in turned:
        values = array_of(constants[name]).T.copy()
        constants[name].CopyFrom(numpy_helper.from_array(values, name))
    replace_nodes(model, nodes)


def _is_plain(node: onnx.NodeProto) -> bool:
    return (
        node.op_type == "Gemm"
        and attribute(node, "alpha", 1.0) == 1.0
        and attribute(node, "beta", 1.0) == 1.0
        and not attribute(node, "transA", 0)
    )


def _as_matmul(node: onnx.NodeProto) -> list[onnx.NodeProto]:
    result = node.output[0]
    if len(node.input) < 3 or not node.input[2]:
        return [helper.make_node("MatMul", node.input[:2], [result], name=node.name)]
    product = f"{result}_product"
    return [
        helper.make_node("MatMul", node.input[:2], [product], name=node.name),
        helper.make_node("Add", [product, node.input[2]], [result], name=f"{node.name}_bias"),
    ]


def quantize_at_run_time(
    model: onnx.ModelProto, layers: Sequence[Layer], scratch: Path, settings: Quantize
) -> onnx.ModelProto:
    """The model with INT8 weights in these layers and activations quantized as they come."""
    floats = initializers(model)
    source, result = scratch / "in.onnx", scratch / "out.onnx"
    onnx.save_model(model, source)
    with explained("ONNX Runtime's dynamic quantizer"):
        quantize_dynamic(
            str(source),
            str(result),
            op_types_to_quantize=list(DYNAMIC_OPERATORS),
            per_channel=not settings.is_per_tensor,
            reduce_range=settings.is_range_reduced,
            weight_type=QuantType.QInt8,
            nodes_to_quantize=[name for layer in layers for name in layer.nodes],
            extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},
        )
    made = onnx.load_model(result)
    if settings.is_range_reduced and not settings.is_per_tensor:
        constants = initializers(made)
        # Of the others the order of the products is not known, or is another one.
        for layer in (item for item in layers if item.operator == "MatMul"):
            values, scales = unsaturated(array_of(floats[layer.weight]), layer)
            _store(constants, layer, values, scales)
    return made


def move_to_int4_grid(
    model: onnx.ModelProto, floats: onnx.ModelProto, layers: Sequence[Layer]
) -> list[str]:
    """Put these layers' INT8 weights on a grid of 4 bits; returns the names to be narrowed.

    Only the integers and their scales change, so the kernels stay those of INT8.
    """
    constants, originals = initializers(model), initializers(floats)
    names = []
    for layer in layers:
        weight = array_of(originals[layer.weight])
        scales = int4_scales(weight, layer.axis)
        values = round_to_grid(weight, scales, layer.axis, INT4_MIN, INT4_MAX)
        if _store(constants, layer, values, scales):
            names.append(layer.weight + _QUANTIZED)
    return names


def _store(
    constants: Mapping[str, onnx.TensorProto], layer: Layer, values: Array, scales: Array
) -> bool:
    """Other integers and scales for a layer; False where it was not quantized."""
    stored, scale = layer.weight + _QUANTIZED, layer.weight + _SCALE
    if stored not in constants:
        return False
    constants[stored].CopyFrom(numpy_helper.from_array(values, stored))
    shape = array_of(constants[scale]).shape
    constants[scale].CopyFrom(numpy_helper.from_array(scales.reshape(shape), scale))
    return True


def quantize_in_blocks(
    model: onnx.ModelProto, layers: Sequence[Layer], block: int, compute: int
) -> onnx.ModelProto:
    """The model with these MatMul and Gather layers at 4 bits, ``block`` weights to a scale.

    Raises: StepError for a block size that the kernels do not take.
    """
    if block < MIN_BLOCK or block & (block - 1):
        raise StepError(
            f"quantize: block_size is {block}; ONNX Runtime's INT4 kernels take powers of two "
            f"from {MIN_BLOCK}, and 0 means one scale a channel"
        )
    chosen = {name for layer in layers for name in layer.nodes}
    constants = initializers(model)
    floats = {layer.weight: array_of(constants[layer.weight]) for layer in layers}
    quantizer = MatMulNBitsQuantizer(
        model,
        bits=4,
        block_size=block,
        is_symmetric=True,
        accuracy_level=compute,
        # nodes_to_include adds nodes and keeps none out (1.31.1): name all the others.
        nodes_to_exclude=[node.name for node in model.graph.node if node.name not in chosen],
        op_types_to_quantize=("MatMul", "Gather"),
        quant_axes=(("MatMul", 0), ("Gather", 1)),
    )
    with explained("ONNX Runtime's INT4 quantizer"):
        quantizer.process()
    result: onnx.ModelProto = quantizer.model.model
    replace_initializers(result, _without_replaced(result, layers))
    _choose_scales(result, floats, block)
    return result


def _choose_scales(model: onnx.ModelProto, floats: Mapping[str, Array], block: int) -> None:
    """Give both block kernels the integers and scales that lose least, in place of the full range.

    Scales are float16 where they fit, behind a Cast that ONNX Runtime folds when it loads the file:
    kernels that compute with float activations take float32 scales alone.
    """
    constants = initializers(model)
    casts: dict[str, onnx.NodeProto] = {}
    for node in model.graph.node:
        if node.op_type not in _BLOCK_INTEGERS:
            continue
        stored, scale = node.input[_BLOCK_INTEGERS[node.op_type]], node.input[2]
        weight = floats.get(stored.removesuffix(_IN_BLOCKS))
        if weight is None or weight.ndim != 2 or scale in casts:
            continue
        is_table = node.op_type == _TABLE
        values, scales = int4_blocks(weight.T if is_table else weight, block)
        if is_table:
            whole = values.reshape(len(weight), -1)[:, : weight.shape[1]]
            constants[stored].CopyFrom(int4_tensor(stored, whole))
        else:
            _fill(constants[stored], packed_blocks(values))
        _fill(constants[scale], scales)
        if scales.dtype == np.float16:
            constants[scale].name = f"{scale}_fp16"
            casts[scale] = helper.make_node(
                "Cast", [f"{scale}_fp16"], [scale], name=f"{scale}.widen", to=TensorProto.FLOAT
            )
    replace_nodes(model, [*casts.values(), *model.graph.node])


def _fill(constant: onnx.TensorProto, values: Array) -> None:
    """Other values for a constant, in its shape."""
    laid = values.reshape(array_of(constant).shape)
    constant.CopyFrom(numpy_helper.from_array(laid, constant.name))


def _without_replaced(model: onnx.ModelProto, layers: Sequence[Layer]) -> list[onnx.TensorProto]:
    used = {name for node in model.graph.node for name in node.input}
    gone = {layer.weight for layer in layers} - used
    return [item for item in model.graph.initializer if item.name not in gone]
