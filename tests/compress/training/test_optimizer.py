"""Parts of a step of training, against torch's schedulers and arithmetic by hand."""

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR

from edgekit.compress.training.optimizer import (
    average_,
    check_masks,
    decay_at,
    decay_groups,
    gradient_norm,
    live_batch_norms,
    make_optimizer,
    mask_,
    rate_at,
    set_rate_,
    training_mode_,
)
from edgekit.core.errors import StepError
from edgekit.core.steps import Train
from tests.compress.benches import TinyCnn, TinyTransformer, seeded


def _rates(settings, steps):
    return [rate_at(step, steps, settings) for step in range(steps)]


def _torch_rates(make, steps):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], 0.3)
    scheduler, found = make(optimizer), []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


def test_cosine_is_torchs_cosine():
    settings = Train(learning_rate=0.3, warmup_ratio=0.0)
    theirs = _torch_rates(lambda o: CosineAnnealingLR(o, T_max=40), 40)
    assert _rates(settings, 40) == pytest.approx(theirs, abs=1e-12)


def test_linear_is_torchs_linear():
    settings = Train(learning_rate=0.3, warmup_ratio=0.0, schedule="linear")
    theirs = _torch_rates(lambda o: LinearLR(o, 1.0, 0.0, total_iters=40), 40)
    assert _rates(settings, 40) == pytest.approx(theirs, abs=1e-12)


def test_warm_up_rises_in_equal_steps_to_the_highest_rate():
    settings = Train(learning_rate=0.5, warmup_ratio=0.25, schedule="constant")
    assert _rates(settings, 20)[:6] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5, 0.5])


def test_the_cosine_begins_at_the_top_after_the_warm_up_and_ends_near_zero():
    settings = Train(learning_rate=1.0, warmup_ratio=0.1)
    rates = _rates(settings, 100)
    assert rates[9] == rates[10] == 1.0
    assert rates[10 + 45] == pytest.approx(0.5)
    assert 0 < rates[-1] < 1e-3
    assert rates[10:] == sorted(rates[10:], reverse=True)


def test_a_training_that_is_all_warm_up_has_no_fall():
    assert _rates(Train(learning_rate=1.0, warmup_ratio=1.0), 4) == [0.25, 0.5, 0.75, 1.0]


def test_biases_norms_and_vectors_get_no_weight_decay():
    model = seeded(lambda: nn.Sequential(TinyCnn(8), nn.LayerNorm((2, 5)), nn.Linear(5, 2)))
    names = {id(value): name for name, value in model.named_parameters()}
    decayed, others = ([names[id(value)] for value in group] for group in decay_groups(model))
    assert set(decayed) == {
        "0.stem.weight",
        "0.first.weight",
        "0.second.weight",
        "0.depthwise.weight",
        "0.pointwise.weight",
        "0.classifier.weight",
        "2.weight",
    }
    assert {"0.stem_norm.weight", "0.stem_norm.bias", "1.weight", "2.bias"} <= set(others)
    assert len(decayed) + len(others) == len(names)


def test_a_step_without_gradient_shrinks_weights_and_leaves_biases():
    model = nn.Linear(3, 2)
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    optimizer = make_optimizer(model, Train(learning_rate=0.1, weight_decay=0.5))
    for value in model.parameters():
        value.grad = torch.zeros_like(value)
    optimizer.step()
    # Decoupled decay: w (1 - rate * decay).
    assert torch.allclose(model.weight, before["weight"] * 0.95)
    assert torch.equal(model.bias, before["bias"])


def test_frozen_weights_are_not_in_the_optimizer():
    model = seeded(TinyTransformer)
    model.requires_grad_(False)
    model.classifier.requires_grad_(True)
    optimizer = make_optimizer(model, Train())
    held = [value for group in optimizer.param_groups for value in group["params"]]
    assert {id(value) for value in held} == {id(value) for value in model.classifier.parameters()}


def test_a_model_with_nothing_to_train_is_refused():
    model = nn.Linear(2, 2).requires_grad_(False)
    with pytest.raises(StepError, match=r"no weight.*requires_grad_\(True\)"):
        make_optimizer(model, Train())


def test_the_rate_reaches_every_group():
    optimizer = make_optimizer(nn.Linear(2, 2), Train())
    set_rate_(optimizer, 0.125)
    assert [group["lr"] for group in optimizer.param_groups] == [0.125, 0.125]


def test_weights_and_gradients_of_two_memory_formats_are_paired_rightly():
    # What torch's fused optimizers get wrong on the CPU.
    start, gradient = torch.randn(2, 4, 3, 3, 3)
    for name in ("sgd", "adamw"):
        layers = []
        for memory_format in (torch.contiguous_format, torch.channels_last):
            layer = nn.Conv2d(3, 4, 3, bias=False)
            layer.weight.data = start.clone(memory_format=memory_format)
            layer.weight.grad = gradient.clone()
            make_optimizer(layer, Train(optimizer=name)).step()
            layers.append(layer)
        assert torch.equal(layers[0].weight, layers[1].weight)


def _weight():
    return nn.Parameter(torch.tensor([[3.0, 1.0], [4.0, 2.0]]))


KEEPS = torch.tensor([[True, False], [True, False]])


def test_the_gradients_norm_leaves_out_what_stays_zero():
    weight = _weight()
    weight.grad = torch.tensor([[3.0, 100.0], [4.0, 100.0]])
    assert float(gradient_norm({"w": weight}, {"w": KEEPS})) == 5.0
    assert float(gradient_norm({"w": weight}, {})) > 100
    assert weight.grad[0, 1] == 100.0


def test_masked_weights_and_their_momentum_become_zero():
    weight = _weight()
    optimizer = torch.optim.AdamW([weight], 0.1)
    weight.grad = torch.ones(2, 2)
    optimizer.step()
    mask_({"w": weight}, {"w": KEEPS}, optimizer)
    state = optimizer.state[weight]
    for value in (weight, state["exp_avg"], state["exp_avg_sq"]):
        assert (value[~KEEPS] == 0).all()
        assert (value[KEEPS] != 0).all()


def test_masks_that_are_not_the_models_are_refused():
    model = nn.Linear(2, 2)
    with pytest.raises(StepError, match="mask 'wieght': no such parameter; did you mean 'weight'"):
        check_masks(model, {"wieght": KEEPS})
    with pytest.raises(StepError, match=r"torch.bool \[3\]; it must be torch.bool \[2, 2\]"):
        check_masks(model, {"weight": torch.ones(3, dtype=torch.bool)})
    with pytest.raises(StepError, match=r"torch.float32 \[2, 2\]"):
        check_masks(model, {"weight": KEEPS.float()})


def test_a_mask_the_wrong_way_round_is_refused():
    model = nn.Linear(2, 2)
    model.weight.data = torch.tensor([[1.0, 0.0], [2.0, 0.0]])
    check_masks(model, {"weight": KEEPS})
    with pytest.raises(StepError, match=r"wrong way round.*True is where a weight stays"):
        check_masks(model, {"weight": ~KEEPS})


def test_an_average_is_the_recursion_by_hand_and_counts_are_copied():
    average = {"w": torch.tensor([1.0, 2.0]), "n": torch.tensor(3)}
    average_(average, {"w": torch.tensor([2.0, 0.0]), "n": torch.tensor(7)}, 0.75)
    assert torch.equal(average["w"], torch.tensor([1.25, 1.5]))
    assert int(average["n"]) == 7


def test_the_decay_grows_to_its_setting():
    # (1 + step) / (10 + step).
    assert decay_at(1, 0.999) == pytest.approx(2 / 11)
    assert decay_at(90, 0.999) == pytest.approx(0.91)
    assert decay_at(10**6, 0.999) == 0.999


def test_batch_norm_layers_with_frozen_weights_stay_in_eval_mode():
    model = seeded(TinyCnn)
    model.first_norm.requires_grad_(False)
    training_mode_(model)
    assert model.stem_norm.training
    assert not model.first_norm.training
    assert model.classifier.training
    assert live_batch_norms(model) == ["stem_norm", "second_norm"]
