import pytest
import torch
import torch_pruning
from torch import nn
from torch.nn import functional

from edgekit.compress.example import as_example
from edgekit.compress.pruning.adapt import cut_model
from edgekit.compress.pruning.groups import find_groups, trace_channels
from tests.compress.architectures import ALL, CNNS, TRANSFORMERS


def groups_of(architecture, whole=()):
    model = architecture.model()
    trace = trace_channels(model, as_example(architecture.inputs()).run, whole)
    return model, find_groups(trace.graph)


def by_torch_pruning(model, inputs, whole):
    """Each channel that may go, as the set of all rows and columns that go with it."""
    graph = torch_pruning.DependencyGraph().build_dependency(model, inputs, verbose=False)
    names = {module: name for name, module in model.named_modules()}
    found = set()
    for group in graph.get_all_groups(ignored_layers=[model.get_submodule(path) for path in whole]):
        root = group[0].dep.target.module
        for channel in range(graph.get_out_channels(root)):
            prune_out = graph.get_pruner_of_module(root).prune_out_channels
            members = graph.get_pruning_group(root, prune_out, [channel])
            unit = set()
            for dependency, indices in members:
                module = dependency.target.module
                if module in names:
                    is_column = graph.is_in_channel_pruning_fn(dependency.handler) and not (
                        graph.is_out_channel_pruning_fn(dependency.handler)
                    )
                    unit |= {(names[module], is_column, index) for index in indices}
            found.add(frozenset(unit))
    return found


def by_edgekit(groups):
    found = set()
    for group in groups:
        for number in range(len(group.units)):
            unit = set()
            for slot, positions in group.positions.items():
                path, _, leaf = slot[0].rpartition(".")
                if leaf == "weight":
                    is_column = slot in group.consumed
                    unit |= {(path, is_column, int(index)) for index in positions[number]}
            found.add(frozenset(unit))
    return found


@pytest.mark.parametrize("name", ["residual", "depthwise", "concatenation", "up and down"])
def test_groups_are_those_of_torch_pruning(name):
    architecture = CNNS[name]
    model, groups = groups_of(architecture)
    whole = ["classifier"] if hasattr(model, "classifier") else ["out"]
    wanted = by_torch_pruning(model, architecture.inputs(), whole)
    assert by_edgekit(groups) == wanted


def test_every_row_and_column_belongs_to_one_unit():
    for name, architecture in ALL.items():
        _, groups = groups_of(architecture)
        seen = set()
        for group in groups:
            for slot, positions in group.positions.items():
                own = {(slot, int(index)) for index in positions.ravel()}
                assert len(own) == positions.size, name
                assert not own & seen, name
                seen |= own


def test_units_of_padded_shortcuts_run_through_the_stages_that_they_reach():
    _, groups = groups_of(CNNS["padded shortcuts"])
    streams = {group.path: len(group.units) for group in groups if "conv1" not in group.path}
    # 8 channels of stage one go on to the end; 8 new ones from stage two; 16 from stage three.
    assert streams == {"body.0.0": 8, "body.2.conv2": 8, "body.4.conv2": 16}


@pytest.mark.parametrize(
    ("name", "units", "width"),
    [("grouped, few", 8, 4), ("grouped, many", 16, 2)],
)
def test_of_grouped_convolutions_goes_what_leaves_more_to_choose_from(name, units, width):
    _, groups = groups_of(CNNS[name])
    inner = next(group for group in groups if group.path.endswith("inner.0.0"))
    assert (len(inner.units), inner.width) == (units, width)


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_heads_neurons_and_width_are_told_apart(name):
    _, groups = groups_of(TRANSFORMERS[name])
    kinds = [group.kind for group in groups]
    layers = kinds.count("heads")
    assert layers in (2, 3)
    assert kinds.count("ffn") == layers
    assert set(kinds) <= {"heads", "ffn", "embedding"}


@pytest.mark.parametrize(
    ("name", "heads", "least"),
    [
        ("fused qkv", 4, 1),
        ("torch's own", 4, 1),
        ("grouped queries, four keys", 4, 2),
        ("grouped queries, two keys", 4, 1),
        ("llama", 4, 2),
    ],
)
def test_heads_are_counted(name, heads, least):
    _, groups = groups_of(TRANSFORMERS[name])
    found = next(group for group in groups if group.kind == "heads")
    assert (len(found.units), found.least) == (heads, least)


class Shared(nn.Module):
    """Keys are shared inside torch's own attention."""

    def __init__(self, keys):
        super().__init__()
        self.keys = keys
        self.query, self.out = nn.Linear(32, 32), nn.Linear(32, 5)
        self.key, self.value = nn.Linear(32, 4 * keys), nn.Linear(32, 4 * keys)

    def forward(self, x):
        query, key, value = (
            layer(x).unflatten(-1, (-1, 4)).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        mixed = functional.scaled_dot_product_attention(query, key, value, enable_gqa=True)
        return self.out(mixed.transpose(1, 2).flatten(2))


@pytest.mark.parametrize(("keys", "units", "columns"), [(4, 4, 8), (2, 4, 8), (8, 8, 4), (1, 8, 4)])
def test_keys_that_torch_shares_out_are_followed(keys, units, columns):
    """Whole keys where two can stay, else one query of each; a single key is nobody's."""
    model = Shared(keys).eval()
    run = as_example(torch.randn(2, 9, 32)).run
    trace = trace_channels(model, run)
    (heads,) = (group for group in find_groups(trace.graph) if group.kind == "heads")
    assert (len(heads.units), heads.width) == (units, columns)
    assert ("key.weight", 0) in heads.key or keys < 4
    assert cut_model(trace, model, run, heads.units[1::2]).failures == {}


def test_whole_modules_keep_their_channels():
    _, groups = groups_of(CNNS["residual"], whole=("body.1.conv1",))
    assert all("body.1.conv1" not in group.layers for group in groups)


def test_layers_that_the_outputs_do_not_need_are_left_alone():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.unused, self.head = (nn.Linear(8, 8) for _ in range(3))

        def forward(self, x):
            y = self.body(x)
            self.unused(y)
            return self.head(y)

    model = Model().eval()
    trace = trace_channels(model, as_example(torch.randn(2, 8)).run)
    assert [group.path for group in find_groups(trace.graph)] == ["body"]
