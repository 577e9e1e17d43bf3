"""One door to both formats: the bytes say which it is, never the file's name."""

from edgekit.core.errors import InputError
from edgekit.graph import onnx_file, tflite_file
from edgekit.graph.model import Graph


def read_graph(data: bytes, *, name: str) -> Graph:
    """The graph in the bytes of a .tflite or .onnx file; ``name`` opens every message.

    An .ort file is refused: it is ONNX Runtime's own, versioned with it; read the .onnx that it
    was converted from.
    Raises: InputError for any other bytes, with the offset of what is wrong.
    """
    if data[4:8] == tflite_file.IDENTIFIER:
        return tflite_file.read(data, name)
    if data[4:8] == b"ORTM":
        raise InputError(
            f"{name}: an .ort file is ONNX Runtime's private format; "
            "read the .onnx file that it was converted from"
        )
    return onnx_file.read(data, name)
