"""Masks of earlier steps through every other step: what is zero for good stays so, exactly."""

import copy

import pytest
import torch
from torch import nn

from edgekit.compress.distillation.distil import distil
from edgekit.compress.low_rank.factorize import factorize
from edgekit.compress.low_rank.lora import lora
from edgekit.compress.masks import require_zeros
from edgekit.compress.pruning.prune import prune
from edgekit.compress.sparsity.magnitude import magnitude_mask
from edgekit.compress.state import load_state, save_state
from edgekit.compress.training.finetune import finetune
from edgekit.core.steps import Distil, Factorize, Lora, Prune, Train
from tests.compress.benches import SILENT, bench_of

# Momentum, decay and an average: each of them would fill zeros if it were let.
SGD = Train(
    epochs=2, batch_size=128, optimizer="sgd", learning_rate=0.02, weight_decay=1e-2, ema_decay=0.5
)
SHARE = 0.6
STEPS = {
    "train": (finetune, SGD),
    "prune": (prune, Prune(ratio=0.5, round_to=4, recover=SGD)),
    "distil, itself": (distil, Distil(student="current", train=SGD)),
    "distil, made": (distil, Distil(student="made", student_ratio=0.5, train=SGD)),
    "lora": (lora, Lora(rank=2, train=SGD)),
    "factorize": (factorize, Factorize(ranks="ratio", ratio=0.3, recover=SGD)),
}


def masked(model: nn.Module, left_out: tuple[str, ...] = ()) -> dict[str, torch.Tensor]:
    """Masks of the smallest weights of every layer but some; the model gets its zeros."""
    masks = {
        name: magnitude_mask(value, SHARE)
        for name, value in model.named_parameters()
        if value.ndim > 1 and name not in left_out
    }
    with torch.no_grad():
        for name, keeps in masks.items():
            model.get_parameter(name).masked_fill_(~keeps, 0.0)
    return masks


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_a_step_keeps_the_zeros_it_was_given(step, name, request, digits, checkpoints):
    model = request.getfixturevalue(f"fitted_{name}")
    # Factors keep no zeros: a masked layer stays whole, and one must be free to be replaced.
    free = {"mlp": "layers.3.weight", "cnn": "second.weight"}[name]
    masks = masked(model, (free,) if step == "factorize" else ())
    base = copy.deepcopy(model)
    function, settings = STEPS[step]
    bench = bench_of(model, digits, checkpoints, masks=masks)
    result = function(settings, bench, SILENT)
    assert result.masks.keys() == masks.keys()
    require_zeros(result.model, result.masks)
    for path, keeps in result.masks.items():
        weight = result.model.get_parameter(path)
        assert keeps.shape == weight.shape
        if weight.shape == masks[path].shape:
            assert torch.equal(keeps, masks[path])
        # What channels were taken out had about as many zeros as the others.
        assert float((~keeps).double().mean()) == pytest.approx(SHARE, abs=0.25)
        assert weight[keeps].any()
    (checkpoints / "state").mkdir(parents=True)
    save_state(result.model, base, checkpoints / "state", result.masks)
    loaded = load_state(base, checkpoints / "state")
    require_zeros(loaded.model, loaded.masks)
