"""Whatever the bytes: a graph or an InputError, soon."""

import contextlib
import random
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.core.errors import InputError
from edgekit.graph import Graph, read_graph
from tests.graph import artifacts

MUTANTS = 1500


def sources():
    return {
        "conv.tflite": artifacts.quantized_tflite("conv", "static4"),
        "text.tflite": artifacts.quantized_tflite("text", "dynamic4"),
        "conv.onnx": artifacts.quantized_onnx("conv", "static8"),
        "int4.onnx": artifacts.quantized_onnx("conv", "dq4"),
    }


def mutate(data, rng):
    changed = bytearray(data)
    choice = rng.randrange(4)
    if choice == 0:
        return bytes(changed[: rng.randrange(len(changed))])
    if choice == 1:  # the structure lies near the ends more often than in the weights
        for _ in range(rng.randrange(1, 4)):
            changed[rng.randrange(len(changed))] = rng.randrange(256)
    elif choice == 2:
        at = rng.randrange(min(4096, len(changed)))
        changed[at] ^= 1 << rng.randrange(8)
    else:
        at = rng.randrange(len(changed) - 4)
        changed[at : at + 4] = rng.choice([b"\xff\xff\xff\xff", b"\0\0\0\0", b"\xff\xff\xff\x7f"])
    return bytes(changed)


@pytest.mark.parametrize("name", ["conv.tflite", "text.tflite", "conv.onnx", "int4.onnx"])
def test_mutated_files_give_a_graph_or_an_input_error(name):
    data, rng = sources()[name], random.Random(name)
    refused, slowest, messages = 0, 0.0, set()
    for _ in range(MUTANTS):
        mutant = mutate(data, rng)
        start = time.perf_counter()
        try:
            graph = read_graph(mutant, name=name)
        except InputError as error:
            refused += 1
            messages.add(str(error)[: len(name) + 2])
        else:
            assert isinstance(graph, Graph)
        slowest = max(slowest, time.perf_counter() - start)
    assert messages == {f"{name}: "}
    # Truncations alone are a quarter; nearly all of them must be seen.
    assert refused > MUTANTS // 6
    # The whole file takes milliseconds; a busy machine is forgiven, an explosion is not.
    assert slowest < 5


@given(st.binary(max_size=400))
@settings(max_examples=300, deadline=None)
def test_random_bytes_are_refused_or_read(data):
    for start in (b"", b"\x1c\0\0\0TFL3"):
        with contextlib.suppress(InputError):
            read_graph(start + data, name="x")


def test_every_cut_of_a_small_file_is_refused():
    data = artifacts.float_onnx("conv")
    for end in range(0, len(data), 97):
        with pytest.raises(InputError):
            read_graph(data[:end], name="cut")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not a .tflite or .onnx file"),
        (b"PK\x03\x04" + bytes(64), "cut off, damaged, or neither"),
        (b"\0\0\0\0ORTM" + bytes(64), "read the .onnx file that it was converted from"),
        (b"\x1c\0\0\0TFL3", "do not fit at byte"),
        (np.zeros(100).tobytes(), "field number 0"),
    ],
)
def test_other_files_are_refused_with_what_to_do(data, message):
    with pytest.raises(InputError, match=message):
        read_graph(data, name="thing.bin")
