"""Engines that keep what is inside: tensors of one run, by their place in the file.

LiteRT's XNNPACK computes whole subgraphs and keeps nothing of them, so it is left out, and LiteRT's
own optimized kernels run. ONNX Runtime gives tensors out as further outputs of the same graph; it
still makes integer kernels of what stands between quantize and dequantize.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

from edgekit.core.errors import SessionError
from edgekit.graph.model import Graph
from edgekit.runtime.engine import Array, EngineTensor
from edgekit.runtime.engines import load_engine


class Watch(Protocol):
    """A loaded model that gives its outputs, and then what was inside."""

    inputs: tuple[EngineTensor, ...]
    outputs: tuple[EngineTensor, ...]

    def run(self, arrays: Sequence[Array]) -> list[Array]:
        """Outputs in the file's order for inputs in the file's order and dtypes."""

    def inside(self) -> Mapping[int, Array]:
        """The watched tensors of the last run, as they are stored."""

    def close(self) -> None:
        """Give the memory back."""


def open_watch(model: bytes, graph: Graph, tensors: Collection[int]) -> Watch:
    """A model whose main graph's ``tensors`` are watched.

    Raises: SessionError when the engine refuses the model; MissingDependencyError when it is not
    installed.
    """
    if graph.format == "tflite":
        return _LiteRtWatch(model, tensors)
    return _OnnxWatch(model, graph, tensors)


class _LiteRtWatch:
    """A .tflite whose interpreter overwrites no tensor."""

    def __init__(self, model: bytes, tensors: Collection[int]) -> None:
        # Imported when it is used: one engine is installed without the other.
        from edgekit.runtime.litert import LiteRtEngine  # noqa: PLC0415

        self._engine = LiteRtEngine(model, keeps_inner=True)
        self._tensors = sorted(tensors)
        self.inputs, self.outputs = self._engine.inputs, self._engine.outputs

    def run(self, arrays: Sequence[Array]) -> list[Array]:
        return self._engine.run(arrays)

    def inside(self) -> dict[int, Array]:
        return {index: self._engine.inner(index) for index in self._tensors}

    def close(self) -> None:
        self._engine.close()


class _OnnxWatch:
    """An .onnx whose watched tensors are outputs, too."""

    def __init__(self, model: bytes, graph: Graph, tensors: Collection[int]) -> None:
        subgraph = graph.subgraphs[0]
        given = {index: place for place, index in enumerate(subgraph.inputs)}
        self._given = {index: given[index] for index in tensors if index in given}
        wanted = sorted(set(tensors) - set(given) - set(subgraph.outputs))
        names = [subgraph.tensors[index].name for index in wanted]
        self._places = {index: len(subgraph.outputs) + place for place, index in enumerate(wanted)}
        self._places |= {index: place for place, index in enumerate(subgraph.outputs)}
        self._watched = [index for index in tensors if index in self._places]
        self._engine = load_engine("onnx")(with_outputs(model, names))
        self.inputs = self._engine.inputs
        self.outputs = self._engine.outputs[: len(subgraph.outputs)]
        self._last: tuple[Sequence[Array], list[Array]] = ((), [])

    def run(self, arrays: Sequence[Array]) -> list[Array]:
        results = self._engine.run(arrays)
        self._last = (arrays, results)
        return results[: len(self.outputs)]

    def inside(self) -> dict[int, Array]:
        arrays, results = self._last
        if not results:
            raise SessionError("nothing was run yet, so there is nothing inside")
        found = {index: results[self._places[index]] for index in self._watched}
        return found | {index: arrays[place] for index, place in self._given.items()}

    def close(self) -> None:
        self._engine.close()


# Fields of onnx.proto: ModelProto.graph, GraphProto.output, ValueInfoProto.name.
_GRAPH, _OUTPUT, _NAME = 7, 12, 1
_LENGTH_DELIMITED = 2


def with_outputs(model: bytes, names: Sequence[str]) -> bytes:
    """The bytes of an .onnx with further outputs; ONNX Runtime infers their types.

    Protobuf joins a message that comes twice, so they are written behind the model as they are.
    Source: protobuf's encoding, "Last One Wins" and "Message Structure".
    """
    outputs = b"".join(_field(_OUTPUT, _field(_NAME, name.encode())) for name in names)
    return model + _field(_GRAPH, outputs) if names else model


def _field(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | _LENGTH_DELIMITED) + _varint(len(content)) + content


def _varint(number: int) -> bytes:
    found = bytearray()
    while number > 0x7F:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes((*found, number))
