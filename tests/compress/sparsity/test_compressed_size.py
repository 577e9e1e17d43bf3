"""Bytes of weights after zlib, against zlib itself."""

import zlib

import numpy as np
import torch
from torch import nn

from edgekit.compress.sparsity.compressed_size import compressed_bytes, rounded_to_int8


def test_rows_are_rounded_to_their_own_symmetric_grid():
    weight = torch.tensor([[1.0, -0.5, 0.0], [0.0, 0.0, 0.0], [-254.0, 2.0, 1.0]])
    wanted = [[127, -64, 0], [0, 0, 0], [-127, 1, 0]]  # halves go to the even neighbour
    assert rounded_to_int8(weight).tolist() == wanted


def test_sizes_are_those_of_zlib_over_all_matrices():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, 4))
    found = compressed_bytes(model)
    weights = [model[0].weight.detach().numpy(), model[2].weight.detach().numpy()]
    floats = b"".join(item.tobytes() for item in weights)
    assert found.float32 == len(zlib.compress(floats, 9))
    integers = b""
    for item in weights:
        rows = item.reshape(len(item), -1)
        scale = (np.abs(rows).max(axis=1, keepdims=True) / np.float32(127)).astype(np.float32)
        integers += np.rint(rows / scale).astype(np.int8).tobytes()
    assert found.int8 == len(zlib.compress(integers, 9))


def test_a_shared_weight_counts_once():
    alone = nn.Sequential(nn.Linear(8, 8, bias=False))
    twice = nn.Sequential(alone[0], nn.ReLU(), alone[0])
    assert compressed_bytes(twice) == compressed_bytes(alone)


def test_zeros_make_it_smaller():
    model = nn.Linear(64, 64)
    before = compressed_bytes(model)
    with torch.no_grad():
        model.weight[model.weight.abs() < model.weight.abs().median()] = 0
    after = compressed_bytes(model)
    assert after.float32 < 0.7 * before.float32
    assert after.int8 < 0.9 * before.int8
