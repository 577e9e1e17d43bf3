"""Changes to finished artifacts, made with the formats' own libraries and not with edgekit."""

from itertools import pairwise

import flatbuffers
import numpy as np
import onnx
from ai_edge_litert import schema_py_generated as schema
from onnx import helper, numpy_helper

CONVOLUTION = schema.BuiltinOperator.CONV_2D
SHAPE = [16, 3, 3, 16]  # of the weights of ``second`` and ``third``


def edit_tflite(path, change):
    """Unpack a .tflite, hand it to ``change``, and pack it again."""
    model = schema.ModelT.InitFromPackedBuf(path.read_bytes(), 0)
    change(model)
    builder = flatbuffers.Builder(1 << 16)
    builder.Finish(model.Pack(builder), b"TFL3")
    path.write_bytes(bytes(builder.Output()))


def conv_weights(model):
    """The weight tensors of ``second`` and ``third``."""
    graph = model.subgraphs[0]
    found = [
        graph.tensors[item.inputs[1]]
        for item in graph.operators
        if model.operatorCodes[item.opcodeIndex].builtinCode == CONVOLUTION
    ]
    return [item for item in found if list(item.shape) == SHAPE]


def set_scale(factor, *, channel=None):
    """A change that multiplies the scales of the second convolution, or one of them."""

    def change(model):
        quantization = conv_weights(model)[0].quantization
        scale = np.array(quantization.scale, np.float32)
        scale[slice(None) if channel is None else channel] *= np.float32(factor)
        quantization.scale = scale

    return change


def zero_weights(model):
    """All integers of the second convolution become 0."""
    buffer = model.buffers[conv_weights(model)[0].buffer]
    buffer.data = np.zeros_like(np.asarray(buffer.data))


def swap_weights(model):
    """The second and the third convolution change their integers and their scales."""
    second, third = conv_weights(model)
    second.buffer, third.buffer = third.buffer, second.buffer
    second.quantization, third.quantization = third.quantization, second.quantization


def edit_onnx(path, change):
    """Load an .onnx, hand it to ``change``, check it and save it."""
    model = onnx.load(path)
    change(model)
    onnx.checker.check_model(model)
    onnx.save(model, path)


def constant(model, name, value):
    """Add an initializer and give its name."""
    model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    return name


def conv_initializers(model):
    """The stored weights of the 16-to-16 convolutions, in order of the graph."""
    return [item for item in model.graph.initializer if list(item.dims) == [16, 16, 3, 3]]


def overwrite(initializer, values):
    """Other numbers in the same place."""
    initializer.CopyFrom(numpy_helper.from_array(values, initializer.name))


def put_nan_into_weights(model):
    """One weight of the second convolution becomes NaN."""
    found = conv_initializers(model)[0]
    values = numpy_helper.to_array(found).copy()
    values.flat[7] = np.nan
    overwrite(found, values)


def drop_layer(model):
    """The third convolution is taken out; what it read goes on to what read it."""
    nodes = [item for item in model.graph.node if item.op_type == "Conv"]
    gone = nodes[2]
    for item in model.graph.node:
        for index, name in enumerate(item.input):
            if name == gone.output[0]:
                item.input[index] = gone.input[0]
    model.graph.node.remove(gone)


def after_output(model, make_nodes):
    """Put nodes between what makes the first output and the output itself."""
    name = model.graph.output[0].name
    for item in model.graph.node:
        for index, output in enumerate(item.output):
            if output == name:
                item.output[index] = "before_sabotage"
    model.graph.node.extend(make_nodes("before_sabotage", name))


def before_layers(model, make_nodes):
    """Put nodes between the input and everything that reads it."""
    name = model.graph.input[0].name
    readers = [item for item in model.graph.node if name in item.input]
    for item in readers:
        for index, read in enumerate(item.input):
            if read == name:
                item.input[index] = "after_sabotage"
    for index, node in enumerate(make_nodes(name, "after_sabotage")):
        model.graph.node.insert(index, node)


def work_for_nothing(tile, sines):
    """A change that adds work without any influence on what comes out."""

    def change(model):
        repeats = constant(model, "sabotage_repeats", np.array(tile, np.int64))
        zero = constant(model, "sabotage_zero", np.float32(0))
        names = [f"sabotage_{index}" for index in range(sines + 1)]

        def nodes(inside, outside):
            yield helper.make_node("Tile", [model.graph.input[0].name, repeats], [names[0]])
            for before, after in pairwise(names):
                yield helper.make_node("Sin", [before], [after])
            yield helper.make_node("ReduceMax", [names[-1]], ["sabotage_top"], keepdims=0)
            yield helper.make_node("Mul", ["sabotage_top", zero], ["sabotage_nothing"])
            yield helper.make_node("Add", [inside, "sabotage_nothing"], [outside])

        after_output(model, nodes)

    return change


def favour_one_class(model):
    """The first class wins always, whatever the picture: a bias, which no weight shows."""
    name = constant(model, "sabotage_bias", np.array([[1e4, 0, 0, 0]], np.float32))
    after_output(model, lambda inside, out: [helper.make_node("Add", [inside, name], [out])])


def give_nan(model):
    """0 / 0 is added to the first output."""

    def nodes(inside, outside):
        yield helper.make_node("Sub", [inside, inside], ["sabotage_none"])
        yield helper.make_node("Div", ["sabotage_none", "sabotage_none"], ["sabotage_nan"])
        yield helper.make_node("Add", [inside, "sabotage_nan"], [outside])

    after_output(model, nodes)


def normalise_again(model):
    """The input is taken for bytes and scaled to 0..1 once more."""
    name = constant(model, "sabotage_scale", np.float32(1 / 255))
    before_layers(model, lambda inside, out: [helper.make_node("Mul", [inside, name], [out])])


def say_something(model):
    """Other bytes, the same network."""
    model.doc_string = "compressed"
