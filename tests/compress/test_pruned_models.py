"""What holds for every kind of model that was pruned."""

import copy

import pytest
import torch
from torch import nn

from edgekit.compress.pruning.channels import prune_channels
from edgekit.compress.state import load_state, save_state
from edgekit.core.steps import Prune
from tests.compress.architectures import ALL

BOTH = ("channels", "heads")
# Sums over fewer channels round otherwise: a few units in the last place of float32.
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


def silenced(model, removed):
    """The whole model with zeros in the rows that went, and in what norms add to them."""
    model = copy.deepcopy(model)
    with torch.no_grad():
        for name, rows in removed.items():
            index = torch.tensor(rows)
            owner, _, leaf = name.rpartition(".")
            if name in dict(model.named_parameters()):
                model.get_parameter(name).index_fill_(0, index, 0)
                bias = dict(model.get_submodule(owner).named_parameters()).get(
                    leaf.replace("weight", "bias")
                )
            else:
                layer = model.get_submodule(name)
                is_column = type(layer).__name__ in ("Conv1D", "ConvTranspose2d")
                layer.weight.index_fill_(1 if is_column else 0, index, 0)
                bias = layer.bias
                out = {"query": "out", "q_proj": "o_proj"}.get(leaf)
                if out in dict(model.get_submodule(owner).named_children()):
                    # A silent query looks at everything alike; what it sees must go.
                    model.get_submodule(f"{owner}.{out}").weight.index_fill_(1, index, 0)
            if bias is not None:
                bias.index_fill_(0, index, 0)
    return model


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("importance", ["l1", "random"])
def test_pruned_model_gives_what_the_whole_one_gives_with_these_channels_silent(name, importance):
    model, inputs = ALL[name].model(), ALL[name].inputs()
    pruned = prune_channels(model, inputs, Prune(units=BOTH, importance=importance))
    assert pruned.removed
    wanted = silenced(model, pruned.removed)(inputs)
    assert torch.allclose(pruned.model(inputs), wanted, **CLOSE)
    assert pruned.after.parameters < 0.75 * pruned.before.parameters


@pytest.mark.parametrize("name", ALL)
def test_pruned_model_takes_another_batch_size(name):
    model, inputs = ALL[name].model(), ALL[name].inputs()
    pruned = prune_channels(model, inputs, Prune(units=BOTH))
    with torch.no_grad():
        whole, single = pruned.model(inputs), pruned.model(inputs[:1])
    assert torch.allclose(whole[:1], single, **CLOSE)


@pytest.mark.parametrize("name", ALL)
def test_pruning_leaves_the_model_itself_as_it_is(name):
    model, inputs = ALL[name].model(), ALL[name].inputs()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    described = repr(model)
    prune_channels(model, inputs, Prune(units=BOTH))
    assert repr(model) == described
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("name", ALL)
def test_pruned_model_can_be_written_down_and_exported(name, tmp_path):
    model, inputs = ALL[name].model(), ALL[name].inputs()
    pruned = prune_channels(model, inputs, Prune(units=BOTH)).model
    save_state(pruned, model, tmp_path)
    loaded = load_state(model, tmp_path).model
    assert torch.equal(loaded(inputs), pruned(inputs))
    program = torch.export.export(loaded, (inputs,))
    assert torch.allclose(program.module()(inputs), pruned(inputs), **CLOSE)


@pytest.mark.parametrize("name", ALL)
def test_pruned_model_can_be_trained_and_pruned_again(name):
    model, inputs = ALL[name].model(), ALL[name].inputs()
    once = prune_channels(model, inputs, Prune(units=BOTH, ratio=0.3))
    thin = once.model.train()
    thin(inputs).square().mean().backward()
    assert all(value.grad is not None for value in thin.parameters() if value.ndim > 3)
    for module in thin.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.zero_()
    twice = prune_channels(thin.eval(), inputs, Prune(units=BOTH, ratio=0.4))
    wanted = silenced(thin, twice.removed)(inputs)
    assert torch.allclose(twice.model(inputs), wanted, **CLOSE)
