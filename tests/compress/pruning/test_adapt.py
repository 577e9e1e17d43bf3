import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from edgekit.compress.example import as_example, slow_attention
from edgekit.compress.pruning.adapt import TOLERANCE, cut_model, difference, frozen
from edgekit.compress.pruning.call_block import CallBlock
from edgekit.compress.pruning.groups import find_groups, trace_channels
from tests.compress.architectures import ALL, CNNS, TRANSFORMERS


def traced(architecture):
    model, example = architecture.model(), as_example(architecture.inputs())
    trace = trace_channels(model, example.run)
    return model, example.run, trace, find_groups(trace.graph)


def some_of(groups):
    """Every other unit of the groups that a model can do without, but of its own width."""
    return [root for group in groups if group.kind != "embedding" for root in group.units[1::2]]


@pytest.mark.parametrize("name", ALL)
def test_cut_model_gives_what_the_model_gives_without_these_channels(name):
    model, run, trace, groups = traced(ALL[name])
    roots = some_of(groups)
    found = cut_model(trace, model, run, roots)
    assert found.failures == {}
    with torch.no_grad(), slow_attention(), trace.without(roots), trace.watching(model), trace:
        wanted = run(model)
    assert difference(run(found.model), wanted) == ""


@pytest.mark.parametrize(
    ("name", "paths"),
    [
        ("residual", ()),
        ("padded shortcuts", ("body.2", "body.4")),
        ("padded in a lambda", ("body.1.shortcut",)),
        ("a size in the code", ("",)),
        ("fused qkv", tuple(f"layers.{layer}.attention" for layer in range(3))),
        ("separate qkv", ()),
        ("llama", ()),
        ("bert", ()),
    ],
)
def test_only_modules_with_sizes_in_their_code_are_rewritten(name, paths):
    model, run, trace, groups = traced(ALL[name])
    first = [
        root
        for group in groups
        for root in group.units[: len(group.units) // 2]
        if group.kind != "embedding"
    ]
    found = cut_model(trace, model, run, first)
    assert set(found.rewritten) == set(paths)
    for path in paths:
        assert isinstance(found.model.get_submodule(path), CallBlock)


def test_a_wrong_channel_is_found():
    """Two rows of a cut model are exchanged: the check must see it."""
    model, run, trace, groups = traced(CNNS["residual"])
    found = cut_model(trace, model, run, some_of(groups)).model
    wrong = copy.deepcopy(found)
    with torch.no_grad():
        weight = wrong.body[1].conv1.weight
        weight[[0, 1]] = weight[[1, 0]]
        assert "other values" in difference(run(wrong), run(found))


def test_a_missing_coupling_is_found_and_named():
    """The trace is told that a head's keys have nothing to do with its queries."""
    model, run, trace, groups = traced(TRANSFORMERS["separate qkv"])
    heads = next(group for group in groups if group.kind == "heads")
    slot = ("layers.0.attention.key.weight", 0)
    trace.graph.slots[slot] = trace.coupling.fresh(32)
    found = cut_model(trace, model, run, heads.units[:1])
    assert any("layers.0.attention" in path for path in found.failures)


def test_result_that_differs_is_told_by_what_differs():
    one = torch.ones(2, 3)
    assert difference(one, one.clone()) == ""
    assert difference(one, one * (1 + TOLERANCE / 10)) == ""
    assert difference((one, one), one) == "it gives another number of tensors"
    assert difference(one, torch.ones(2, 4)) == "it gives [2, 3] where [2, 4] is right"
    assert "other values" in difference(one, one * 1.1)
    assert "other values" in difference(one * float("nan"), one)


def test_frozen_values_do_not_change_with_what_they_were_made_of():
    given = {"x": torch.zeros(2), "cache": [torch.zeros(1)], "n": 3}
    kept = frozen(given)
    given["x"].add_(1)
    given["cache"][0].add_(1)
    assert kept["x"].tolist() == [0, 0]
    assert kept["cache"][0].tolist() == [0]
    assert kept["n"] == 3


class Counting(nn.Module):
    """Knows how many channels it has by two attributes, one of which means something else."""

    def __init__(self) -> None:
        super().__init__()
        self.groups_of_pixels, self.width = 8, 8
        self.first, self.last = nn.Conv2d(3, 8, 1), nn.Linear(8 * 2, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.first(x)).reshape(-1, self.width, 2, self.groups_of_pixels)
        return self.last(y.mean(-1).reshape(-1, self.width * 2))


def test_of_attributes_of_the_same_value_the_right_one_is_written_back():
    model, inputs = Counting().eval(), torch.randn(2, 3, 4, 4)
    run = as_example(inputs).run
    trace = trace_channels(model, run)
    groups = find_groups(trace.graph)
    found = cut_model(trace, model, run, [root for group in groups for root in group.units[:4]])
    assert found.failures == {}
    assert (found.model.width, found.model.groups_of_pixels) == (4, 8)
    assert found.rewritten == ()


class Code(nn.Module):
    """Two linear layers with 24 neurons and a piece of code between them."""

    def __init__(self, code) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(5, 24), nn.LazyLinear(3)
        self.code = code
        self.last(torch.relu(self.code(self.first(torch.randn(2, 5)))))

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.code(self.first(x))))


@pytest.mark.parametrize(
    "code",
    [
        lambda x: x[:, 4:16],
        lambda x: x[..., 12:] * x[..., :12],
        lambda x: x.unflatten(-1, (12, 2)).sum(-1),
        lambda x: x.unflatten(1, (3, 4, 2)).flatten(1, 2).amax(-1),
        lambda x: functional.layer_norm(x, (24,)),
        lambda x: functional.group_norm(x, 6),
        lambda x: torch.cat(x.split([4, 12, 8], dim=1)[::-1], dim=1),
        lambda x: functional.pad(x, (2, 6)) + functional.pad(x, (6, 2)),
        lambda x: x.view(-1, 2, 12).expand(-1, 2, 12).reshape(-1, 24),
        lambda x: x.reshape(x.shape[0], 24 // 2, 2).mean(2),
    ],
)
def test_sizes_in_code_follow_the_channels(code):
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        model, inputs = Code(code).eval(), torch.randn(2, 5)
    run = as_example(inputs).run
    trace = trace_channels(model, run)
    groups = find_groups(trace.graph)
    assert groups
    roots = [root for group in groups for root in group.units[: max(1, len(group.units) // 3)]]
    found = cut_model(trace, model, run, roots)
    assert found.failures == {}
    assert found.model.first.out_features < 24
    assert found.model(torch.randn(3, 5)).shape == (3, 3)


class Reader(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x[:, ::2]


def test_code_that_takes_every_other_channel_is_named():
    model = nn.Sequential(nn.Linear(5, 24), Reader(), nn.Linear(12, 3)).eval()
    inputs = torch.randn(2, 5)
    run = as_example(inputs).run
    trace = trace_channels(model, run)
    roots = [root for group in find_groups(trace.graph) for root in group.units[:5]]
    found = cut_model(trace, model, run, roots)
    assert "every other channel is taken" in found.failures["1"]
