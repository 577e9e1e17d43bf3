"""Integers of an .onnx file that ONNX Runtime computes in float once it has loaded it.

A static graph holds pairs of QuantizeLinear and DequantizeLinear, and a session joins them with the
layers between to integer kernels, or does not: then the file is small and the layer a float one.
The file does not show it, so a session is asked for the graph that it runs.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path

from edgekit.core.strategy import Quantize
from edgekit.graph import Graph, read_graph
from edgekit.graph.weights import WeightLayer, weight_layers

_DEQUANTIZE = "DequantizeLinear"
# What a session writes is one protobuf message of less than 2 GiB, and 4-bit weights grow in it.
LARGEST_BYTES = 2**30
_FATAL_ONLY = 4


def floats_when_loaded(model: bytes, settings: Quantize, *, is_x86: bool) -> frozenset[int]:
    """The layers, by their place in ``weight_layers``, whose integers a session reads as floats.

    model: an .onnx file as it ships; of other files, of activations that are not static and of
    files past ``LARGEST_BYTES`` nothing is known, and the result is empty. is_x86: the device's
    processor; on others ONNX Runtime leaves signed activations signed.
    """
    graph = read_graph(model, name="the artifact")
    if not _is_joined(graph, settings) or len(model) > LARGEST_BYTES:
        return frozenset()
    # What the file itself has as floats is no news of the session's.
    asked = {place: it for place, it in enumerate(weight_layers(graph)) if it.is_integer}
    if not asked:
        return frozenset()
    floats = _dequantized(_loaded(model, is_x86=is_x86))
    return frozenset(
        place for place, layer in asked.items() if not floats.isdisjoint(_names(graph, layer))
    )


def why_unseen(model: bytes, settings: Quantize) -> str:
    """What to tell of a file whose loaded graph cannot be asked for; "" where it can."""
    if len(model) <= LARGEST_BYTES:
        return ""
    if not _is_joined(read_graph(model, name="the artifact"), settings):
        return ""
    return (
        f"the file has {len(model):,} bytes, and what ONNX Runtime makes of more than "
        f"{LARGEST_BYTES:,} cannot be written down: whether its static integers run in integers "
        "once it is loaded is not evaluated"
    )


def _is_joined(graph: Graph, settings: Quantize) -> bool:
    """Whether a session joins integers to kernels that the file does not name."""
    return graph.format == "onnx" and settings.activations == "static"


def _loaded(model: bytes, *, is_x86: bool) -> Graph:
    """What a session makes of a model."""
    import onnxruntime  # noqa: PLC0415  (only builds for ONNX Runtime have it)

    with tempfile.TemporaryDirectory(prefix="edgekit-loaded-") as folder:
        path = Path(folder) / "loaded.onnx"
        options = onnxruntime.SessionOptions()
        options.optimized_model_filepath = str(path)
        options.log_severity_level = _FATAL_ONLY
        options.add_session_config_entry("session.qdqisint8allowed", "0" if is_x86 else "1")
        onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        return read_graph(path.read_bytes(), name="what ONNX Runtime made of the artifact")


def _dequantized(graph: Graph) -> frozenset[str]:
    """The names of all that a DequantizeLinear reads."""
    return frozenset(
        subgraph.tensors[operator.inputs[0]].name
        for subgraph in graph.subgraphs
        for operator in subgraph.operators
        if operator.name == _DEQUANTIZE
    )


def _names(graph: Graph, layer: WeightLayer) -> Iterator[str]:
    """The weight's own name and those of what is made of it; constants made of it keep theirs."""
    yield layer.tensor.name
    tensors = graph.subgraphs[layer.subgraph].tensors
    for operator in layer.passed:
        yield from (tensors[index].name for index in operator.outputs)
