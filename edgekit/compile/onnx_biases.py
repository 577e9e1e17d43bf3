"""Biases of integer convolutions, kept as floats in the file."""

from collections.abc import Collection

import onnx

from edgekit.compile.onnx_model import initializers, replace_initializers, replace_nodes


def keep_biases_float(
    made: onnx.ModelProto, model: onnx.ModelProto, layers: Collection[str]
) -> None:
    """Give the convolutions of these names the bias that they have in the float model.

    A session rounds it to the same integers when it loads the file (onnxruntime 1.31.1), which
    then holds no scale and no zero point for each value. It does not for a Gemm before a Reshape,
    nor where weights have 4 bits.
    """
    floats = initializers(model)
    biases = {
        node.name: node.input[2]
        for node in model.graph.node
        if node.op_type == "Conv" and node.name in layers and len(node.input) > 2
    }
    wanted = {name for name, bias in biases.items() if bias in floats}
    others = {name for node in made.graph.node if node.name not in wanted for name in node.input}
    ours = [
        node
        for node in made.graph.node
        if node.name in wanted and len(node.input) > 2 and node.input[2] not in others
    ]
    decoded = {node.input[2] for node in ours}
    replaced = dict(initializers(made))
    for node in ours:
        node.input[2] = biases[node.name]
        replaced.setdefault(node.input[2], floats[node.input[2]])
    replace_nodes(made, [node for node in made.graph.node if node.output[0] not in decoded])
    replace_initializers(made, list(replaced.values()))
