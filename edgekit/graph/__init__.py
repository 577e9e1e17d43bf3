"""Bounds-checked readers of .tflite and .onnx, with the standard library and numpy only.

``model`` holds the types, ``reader`` recognises the format, ``tflite_file`` and ``onnx_file``
read one each on top of ``flatbuffer`` and ``protobuf`` (the wire formats); ``tflite_peek`` tells
before that what tensors a .tflite has. ``weights`` says layer by layer how weights are stored and
computed with, ``grid`` which values they stand for. This room ships to devices and reads files from
strangers: whatever the bytes, it gives a graph or an ``InputError`` with the offset, in bounded
time and memory. May import ``core``. To add a format: a module with ``read(data, name)`` and its
signature in ``reader``.

What a name needs is imported when the name is first used: every session peeks, few read a graph.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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


def __getattr__(name: str) -> Any:
    """Import a public name from where it lives."""
    if name not in __all__:
        raise AttributeError(f"module 'edgekit.graph' has no attribute '{name}'")
    home = "reader" if name == "read_graph" else "model"
    return getattr(import_module(f"edgekit.graph.{home}"), name)
