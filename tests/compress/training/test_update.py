"""One step of training: half precision, the average, and what a checkpoint brings back."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from edgekit.compress.training.checkpoint import Checkpoint
from edgekit.compress.training.update import NotFiniteError, Updater
from edgekit.core.steps import Train
from tests.compress.benches import TinyMlp, seeded

CPU = torch.device("cpu")
SETTINGS = Train(learning_rate=1e-2, schedule="constant", warmup_ratio=0.0, weight_decay=0.0)
INPUTS = torch.randn(16, 1, 8, 8, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(16) % 10


def _updater(model, settings=SETTINGS, masks=None, **more):
    return Updater(model, settings, masks or {}, device=CPU, steps=10, **more)


def _loss_of(model):
    return lambda: functional.cross_entropy(model(INPUTS).float(), LABELS)


def test_a_step_follows_the_gradient_as_sgd_by_hand():
    model = seeded(TinyMlp)
    settings = Train(
        optimizer="sgd",
        learning_rate=0.1,
        momentum=0.0,
        schedule="constant",
        warmup_ratio=0.0,
        weight_decay=0.0,
        clip_norm=0.0,
    )
    loss = _loss_of(model)()
    names = [name for name, _ in model.named_parameters()]
    gradients = dict(zip(names, torch.autograd.grad(loss, list(model.parameters())), strict=True))
    expected = {name: value - 0.1 * gradients[name] for name, value in model.named_parameters()}
    found = _updater(model, settings).step(_loss_of(model), 0)
    assert found == loss.item()
    for name, value in model.named_parameters():
        assert torch.allclose(value, expected[name], atol=1e-7)


def test_the_gradient_is_clipped_to_its_norm():
    model = seeded(TinyMlp)
    before = nn.utils.parameters_to_vector(model.parameters()).detach().clone()
    settings = Train(
        optimizer="sgd",
        learning_rate=1.0,
        momentum=0.0,
        schedule="constant",
        warmup_ratio=0.0,
        weight_decay=0.0,
        clip_norm=0.01,
    )
    _updater(model, settings).step(_loss_of(model), 0)
    moved = nn.utils.parameters_to_vector(model.parameters()).detach() - before
    # Differences of float32 weights near 0.1.
    assert moved.norm().item() == pytest.approx(0.01, rel=1e-3)


def test_half_precision_goes_where_full_precision_goes():
    # The CPU stands in for CUDA: torch's autocast and scaler do the same there.
    full, half = seeded(TinyMlp), seeded(TinyMlp)
    plain, mixed = _updater(full), _updater(half, is_mixed=True)
    for done in range(5):
        wanted = plain.step(_loss_of(full), done)
        # Half precision has 11 bits.
        assert mixed.step(_loss_of(half), done) == pytest.approx(wanted, rel=5e-3)
    state = Checkpoint(fingerprint="")
    mixed.record(state)
    assert state.scaler["scale"] == 65536.0
    assert all(value.dtype == torch.float32 for value in state.tensors.values())


def test_half_precision_is_used_in_the_model_alone_where_it_is_wanted():
    seen = []
    for is_mixed in (True, False):
        model = seeded(TinyMlp)
        model.layers[1].register_forward_hook(lambda *given: seen.append(given[2].dtype))
        _updater(model, is_mixed=is_mixed).step(_loss_of(model), 0)
    assert seen == [torch.float16, torch.float32]


def test_a_gradient_that_overflows_in_half_precision_changes_no_weight_and_is_scaled_down():
    model = seeded(TinyMlp)
    updater = _updater(model, is_mixed=True)
    before = [value.clone() for value in model.parameters()]
    updater.step(lambda: _loss_of(model)() * 1e38, 0)
    for value, kept in zip(model.parameters(), before, strict=True):
        assert torch.equal(value, kept)
    state = Checkpoint(fingerprint="")
    updater.record(state)
    assert state.scaler["scale"] == 32768.0


def test_half_precision_that_never_works_stops():
    model = seeded(TinyMlp)
    updater = _updater(model, is_mixed=True)

    def train_on():
        for done in range(30):
            updater.step(lambda: _loss_of(model)() * 1e38, done)

    with pytest.raises(NotFiniteError, match="no gradient is finite in half precision"):
        train_on()


def test_a_loss_that_is_not_finite_changes_nothing():
    model = seeded(TinyMlp)
    before = [value.clone() for value in model.parameters()]
    with pytest.raises(NotFiniteError, match="the loss is nan"):
        _updater(model).step(lambda: _loss_of(model)() * math.nan, 0)
    for value, kept in zip(model.parameters(), before, strict=True):
        assert torch.equal(value, kept)


def test_the_average_is_shown_and_then_put_away():
    model = seeded(TinyMlp)
    updater = _updater(
        model, Train(ema_decay=0.5, learning_rate=0.1, schedule="constant", warmup_ratio=0.0)
    )
    start = model.layers[1].weight.detach().clone()
    updater.step(_loss_of(model), 0)
    present = model.layers[1].weight.detach().clone()
    with updater.showing_result():
        # The decay is 2 / 11 at the first batch.
        assert torch.allclose(model.layers[1].weight, start * 2 / 11 + present * 9 / 11, atol=1e-6)
    assert torch.equal(model.layers[1].weight, present)


def test_a_checkpoint_brings_everything_back():
    settings = Train(ema_decay=0.9, learning_rate=1e-2)
    keeps = torch.rand(48, 64, generator=torch.Generator().manual_seed(0)) < 0.5
    model = seeded(TinyMlp)
    updater = _updater(model, settings, {"layers.1.weight": keeps.clone()})
    for done in range(3):
        updater.step(_loss_of(model), done)
    state = Checkpoint(fingerprint="")
    updater.record(state)
    import copy

    stored = copy.deepcopy(state)
    other = seeded(TinyMlp, 9)
    again = _updater(other, settings, {"layers.1.weight": torch.ones_like(keeps)})
    again.restore(stored)
    for done in range(3, 6):
        assert updater.step(_loss_of(model), done) == again.step(_loss_of(other), done)
    for one, two in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(one, two)
    with updater.showing_result(), again.showing_result():
        assert torch.equal(model.layers[1].weight, other.layers[1].weight)
        assert (other.layers[1].weight[~keeps] == 0).all()
