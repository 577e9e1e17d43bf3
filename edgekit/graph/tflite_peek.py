"""One look into a .tflite, for what is asked each time that a model is opened."""

from edgekit.graph.flatbuffer import FlatBuffer
from edgekit.graph.tflite_names import DTYPES

_SUBGRAPHS, _TENSORS, _TYPE = 2, 0, 1


def holds_dtype(data: bytes, dtype: str) -> bool:
    """Whether any tensor of a .tflite has this dtype ("int4"); nothing else of it is checked.

    Raises: InputError with the offset where the bytes end too early.
    """
    code = DTYPES.index(dtype)
    return any(
        tensor.integer(_TYPE, "b") == code
        for part in FlatBuffer(data, "the model").root().tables(_SUBGRAPHS)
        for tensor in part.tables(_TENSORS)
    )
