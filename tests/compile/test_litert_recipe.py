"""Layers that LiteRT's kernels take in one form alone: what is asked for, and what runs."""

import numpy as np
import pytest
import torch
from ai_edge_litert.interpreter import Interpreter
from torch import nn

from edgekit.core.contract import Tensor
from edgekit.core.strategy import Quantize
from tests.compile import models
from tests.compile.conftest import export_workload, quantized_file


class Queries(nn.Module):
    """Attention whose queries are parameters, as in DETR: a constant times a product."""

    def __init__(self) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(1, 2, 32))
        self.attention = nn.MultiheadAttention(32, 4, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found, _ = self.attention(self.queries.expand(len(x), -1, -1), x, x)
        return found.mean(dim=1)


@pytest.mark.parametrize("activations", ["dynamic", "none"])
def test_a_constant_on_the_left_of_a_product_builds_runs_and_is_near(activations, tmp_path):
    model = models.trained_like(Queries())
    workload = models.workload_of(model, {"x": Tensor(shape=(16, 32))}, ["y"])
    settings = Quantize(precision="int8", activations=activations)
    file = quantized_file(export_workload(workload, tmp_path), settings, tmp_path)
    interpreter = Interpreter(model_path=str(file), num_threads=1)
    x = np.random.default_rng(1).standard_normal((1, 16, 32)).astype(np.float32)
    (found,) = interpreter.get_signature_runner()(**one_input(interpreter, x)).values()
    with torch.no_grad():
        wanted = model.eval()(torch.from_numpy(x)).numpy()
    assert np.corrcoef(found.ravel(), wanted.ravel())[0, 1] > 0.98


def one_input(interpreter: Interpreter, x: np.ndarray) -> dict[str, np.ndarray]:
    (name,) = interpreter.get_signature_runner().get_input_details()
    return {name: x}
