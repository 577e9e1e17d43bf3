"""Pruned models in both formats, run in their own runtimes."""

import numpy as np
import pytest
import torch

from edgekit.compress.pruning.channels import prune_channels
from edgekit.compress.pruning.depth import drop_layers
from edgekit.core.contract import Tensor
from edgekit.core.steps import Prune
from tests.compress.architectures import ALL
from tests.compress.exports import export_both

UNITS = ("channels", "heads")


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "concatenation",
        "depthwise",
        "padded shortcuts",
        "channel shuffle",
        "fused qkv",
        "grouped queries, four keys",
        "grouped queries, two keys",
        "torch's own",
        "llama",
    ],
)
def test_pruned_model_gives_the_same_in_both_formats(name, tmp_path):
    architecture = ALL[name]
    inputs = architecture.inputs()
    if not inputs.is_floating_point():
        inputs = inputs.int()  # what LiteRT takes token numbers as
    model = prune_channels(architecture.model(), inputs, Prune(units=UNITS, importance="l1")).model
    kind = Tensor(shape=inputs.shape[1:], dtype=str(inputs.dtype).removeprefix("torch."))
    runs = export_both(model, {"x": kind}, tmp_path)
    with torch.no_grad():
        wanted = model(inputs[:1]).numpy()
    scale = np.abs(wanted).max()
    for run in runs.values():
        given = {"x": inputs[:1].numpy()}
        # Float kernels sum in other orders: about 1e-6 a layer.
        np.testing.assert_allclose(run(given), wanted, atol=1e-4 * scale)


@pytest.mark.slow
def test_narrow_and_shallow_model_gives_the_same_in_both_formats(tmp_path):
    architecture = ALL["residual"]
    inputs = architecture.inputs()
    shallow = drop_layers(architecture.model(), inputs, 2).model
    model = prune_channels(shallow, inputs, Prune()).model
    runs = export_both(model, {"x": Tensor(shape=inputs.shape[1:])}, tmp_path)
    with torch.no_grad():
        wanted = model(inputs[:1]).numpy()
    for run in runs.values():
        np.testing.assert_allclose(run({"x": inputs[:1].numpy()}), wanted, atol=1e-5)
