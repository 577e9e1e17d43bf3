"""Bounds-checked readers of .tflite and .onnx, with the standard library and numpy only.

``model`` holds the types, ``reader`` recognises the format, ``tflite_file`` and ``onnx_file``
read one each on top of ``flatbuffer`` and ``protobuf`` (the wire formats). ``weights`` says layer
by layer how weights are stored and computed with, ``grid`` which values they stand for. This room
ships to devices and reads files from strangers: whatever the bytes, it gives a graph or an
``InputError`` with the offset, in bounded time and memory. May import ``core``. To add a format:
a module with ``read(data, name)`` and its signature in ``reader``.
"""

from edgekit.graph.model import (
    Graph,
    Operator,
    Subgraph,
    TensorInfo,
    TensorQuantization,
)
from edgekit.graph.reader import read_graph

__all__ = [
    "Graph",
    "Operator",
    "Subgraph",
    "TensorInfo",
    "TensorQuantization",
    "read_graph",
]
