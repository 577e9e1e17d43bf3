"""4-bit weights that XNNPACK takes in 8 bits alone, widened before LiteRT sees them.

XNNPACK takes no convolution with 4-bit weights, whatever its flags, and LiteRT's own kernel unpacks
them at every run: 3 to 4 times as long as INT8 (ai-edge-litert 2.3.0, docs/precisions.md). Nor does
it take a DEQUANTIZE of 4 bits, behind which layers with float activations then run outside of it;
of 8 bits it makes floats once. So the file stays in 4 bits, and the interpreter gets the same
integers with the same scales in 8. Fully connected layers with integer activations stay as they
are: XNNPACK has kernels for 4 bits there, as fast as those for 8 or faster.

The file is patched, not written anew: wide values are appended, a buffer is made to point at them,
and one byte says the tensor's new type.
"""

import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from edgekit.core.errors import InputError
from edgekit.graph import tflite_file
from edgekit.graph.flatbuffer import FlatBuffer, Table
from edgekit.graph.model import Array, Graph, Subgraph, stored_size, unpack_bits
from edgekit.graph.tflite_names import DTYPES

Key = tuple[int, int]  # (subgraph, tensor)

# Operators, and the input that holds their weights.
_WEIGHTS = {"CONV_2D": 1, "DEPTHWISE_CONV_2D": 1, "DEQUANTIZE": 0}
# Fields of schema.fbs: Model, SubGraph, Tensor, Buffer.
_SUBGRAPHS, _BUFFERS = 2, 4
_TENSORS = 0
_TYPE, _BUFFER, _SPARSITY = 1, 2, 6
_DATA, _OFFSET, _SIZE = 0, 1, 2
# XNNPACK expects constants on such addresses (schema.fbs: force_align).
_ALIGNMENT = 16
# Offsets inside a flatbuffer are 32 bits wide, signed in places.
_MOST_BYTES = 2**31 - 2**20
_MOST_NAMED = 3
_STAY = "without a fast kernel for 4 bits stay so, and take several times as long as in 8"


@dataclass(frozen=True, slots=True, kw_only=True)
class Widened:
    """What the interpreter gets. notes: what stayed in 4 bits, and why."""

    model: bytes
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class FourBitWeights:
    """Constants of 4 bits that convolutions or DEQUANTIZE read.

    widened: those that can be stored in 8 bits instead. left: the others, and why.
    """

    widened: tuple[Key, ...]
    left: tuple[tuple[Key, str], ...]


def widen_weights(model: bytes) -> Widened:
    """The .tflite with 8 bits for what has no fast kernel for 4, where it has such.

    What cannot be widened stays as it is, with a note; of a file that cannot be read, all does.
    """
    try:
        graph = tflite_file.read(model, "the model")
        found = four_bit_weights(graph)
        wide = _written(model, graph, found.widened) if found.widened else model
    except InputError as fault:
        return Widened(model=model, notes=(f"any weights {_STAY}: {fault}",))
    return Widened(model=wide, notes=_notes(graph, found))


def four_bit_weights(graph: Graph) -> FourBitWeights:
    """Which weights a session runs in 8 bits that the .tflite stores in 4."""
    faults = {
        (place, index): _fault(subgraph, index)
        for place, subgraph in enumerate(graph.subgraphs)
        for index in _weights(subgraph)
    }
    sound = {key for key, fault in faults.items() if not fault}
    shared = _shared_with_others(graph, sound)
    return FourBitWeights(
        widened=tuple(key for key in faults if key in sound - shared),
        left=tuple(
            (key, fault or "a tensor that stays as it is has the same bytes")
            for key, fault in faults.items()
            if fault or key in shared
        ),
    )


def _weights(subgraph: Subgraph) -> dict[int, None]:
    """Constants of 4 bits in the place of such an operator's weights, in order of execution."""
    places = (
        item.inputs[slot]
        for item in subgraph.operators
        for slot in [_WEIGHTS.get(item.name, -1)]
        if 0 <= slot < len(item.inputs) and item.inputs[slot] >= 0
    )
    tensors = subgraph.tensors
    return dict.fromkeys(
        index for index in places if tensors[index].dtype == "int4" and tensors[index].is_constant
    )


def _fault(subgraph: Subgraph, index: int) -> str:
    """Why a weight cannot be widened by itself, "" where it can."""
    info = subgraph.tensors[index]
    if info.quantization is None or info.quantization.block_size:
        return "it has no scales of channels"
    if info.is_variable or stored_size(info.elements, "int4") != info.stored_bytes:
        return "it is no plain constant"
    if index in (*subgraph.inputs, *subgraph.outputs):
        return "the model gives it out"
    for item in subgraph.operators:
        used = [slot for slot, place in enumerate(item.inputs) if place == index]
        if index in item.outputs or used not in ([], [_WEIGHTS.get(item.name)]):
            return f"{item.name} uses it, too"
    return ""


def _shared_with_others(graph: Graph, sound: set[Key]) -> set[Key]:
    """Those whose bytes a tensor has that is not among them, or that has another size."""
    users: dict[int, set[Key]] = {}
    for place, subgraph in enumerate(graph.subgraphs):
        for index, content in subgraph.constants.items():
            users.setdefault(id(content), set()).add((place, index))
    elements = {key: graph.subgraphs[key[0]].tensors[key[1]].elements for key in sound}
    return {
        key
        for group in users.values()
        if not group <= sound or len({elements[key] for key in group}) > 1
        for key in group & sound
    }


def _notes(graph: Graph, found: FourBitWeights) -> tuple[str, ...]:
    if not found.left:
        return ()
    total = len(found.left) + len(found.widened)
    named = "; ".join(
        f"{graph.subgraphs[place].tensors[index].name or f'tensor {index}'}: {why}"
        for (place, index), why in islice(found.left, _MOST_NAMED)
    )
    more = f"; and {len(found.left) - _MOST_NAMED} more" if len(found.left) > _MOST_NAMED else ""
    return (f"{len(found.left)} of {total} weights {_STAY}: {named}{more}",)


def _written(model: bytes, graph: Graph, keys: tuple[Key, ...]) -> bytes:
    """The bytes of the model with these tensors at 8 bits.

    Raises: InputError for a file whose parts cannot be told apart, or that would be too large.
    """
    root = FlatBuffer(model, graph.name).root()
    buffers = _apart(root.tables(_BUFFERS), graph.name)
    parts = [_apart(part.tables(_TENSORS), graph.name) for part in root.tables(_SUBGRAPHS)]
    places = {key: parts[key[0]][key[1]].integer(_BUFFER, "I") for key in keys}
    owners = {buffer: key for key, buffer in places.items()}
    grown = sum(graph.subgraphs[part].tensors[index].elements for part, index in owners.values())
    if len(model) + grown > _MOST_BYTES:
        raise InputError(
            f"{graph.name}: {len(model) + grown} bytes with 8-bit weights; one .tflite holds "
            f"{_MOST_BYTES}"
        )
    stream = io.BytesIO()  # the one copy of the model: neither pieces nor patches make another
    stream.write(model)
    for buffer, (part, index) in owners.items():
        info = graph.subgraphs[part].tensors[index]
        wide = unpack_bits(graph.constant_data(index, part), "int4", info.elements)
        _append(stream, buffers[buffer], wide)
    for part, index in keys:
        table = parts[part][index]
        if table.place(_SPARSITY):
            raise InputError(f"{graph.name}: tensor {index} is stored sparsely")
        _patch(stream, table.place(_TYPE), struct.pack("<b", DTYPES.index("int8")))
    return stream.getvalue()


def _apart(tables: Iterator[Table], name: str) -> list[Table]:
    """Tables of a vector, each of which can be patched without another one's changing."""
    found = list(tables)
    if len({table.offset for table in found}) < len(found):
        raise InputError(f"{name}: several of its buffers or tensors are one")
    return found


def _append(stream: io.BytesIO, buffer: Table, values: Array) -> None:
    """Write values behind the model and make a buffer point at them."""
    end = stream.seek(0, io.SEEK_END)
    start = -(-(end + 4) // _ALIGNMENT) * _ALIGNMENT
    stream.write(bytes(start - 4 - end) + struct.pack("<I", values.nbytes))
    stream.write(values.data)
    if buffer.integer(_OFFSET, "Q") > 1:  # its bytes lie behind the flatbuffer already
        _patch(stream, buffer.place(_OFFSET), struct.pack("<Q", start))
        _patch(stream, buffer.place(_SIZE), struct.pack("<Q", values.nbytes))
    else:
        place = buffer.place(_DATA)
        _patch(stream, place, struct.pack("<I", start - 4 - place))


def _patch(stream: io.BytesIO, place: int, content: bytes) -> None:
    stream.seek(place)
    stream.write(content)
