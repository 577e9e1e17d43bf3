import copy

import pytest
import torch
from torch import nn

from edgekit.compress.example import as_example
from edgekit.compress.pruning.depth import choose_blocks, drop_layers, find_blocks, has_shortcut
from edgekit.compress.state import load_state, save_state
from edgekit.core.errors import StepError
from tests.compress.architectures import CNNS, TRANSFORMERS


def found_in(architecture):
    model = architecture.model()
    return model, find_blocks(model, [as_example(architecture.inputs())])


class Add(nn.Module):
    """Adds a learned vector: the cosine between input and output can be written down."""

    def __init__(self, vector):
        super().__init__()
        self.part = nn.Linear(2, 2)
        nn.init.zeros_(self.part.weight)
        self.part.bias = nn.Parameter(torch.tensor(vector))

    def forward(self, x):
        return x + self.part(x)


def test_influence_by_hand():
    """From (1, 0) to (1, 1) the cosine is the root of a half; to (2, 0) it is 1."""
    model = nn.Sequential(Add([0.0, 1.0]), nn.Identity(), Add([0.0, 0.0])).eval()
    blocks = find_blocks(model, [as_example(torch.tensor([[1.0, 0.0]]))])
    influences = {block.path: block.influence for block in blocks}
    assert influences == pytest.approx({"2": 0.0, "0": 1 - 0.5**0.5}, abs=1e-6)


def test_influence_is_the_mean_over_all_samples_of_all_batches():
    model = nn.Sequential(Add([0.0, 1.0]), Add([0.0, 0.0])).eval()
    batches = [torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0], [0.0, 3.0]])]
    blocks = find_blocks(model, [as_example(batch) for batch in batches])
    wanted = 1 - (0.5**0.5 + 1 + 1) / 3
    assert {block.path: block.influence for block in blocks}["0"] == pytest.approx(wanted)


@pytest.mark.parametrize(
    ("name", "paths"),
    [
        ("residual", {"body.1", "body.3"}),
        ("padded shortcuts", {"body.1", "body.3"}),
        ("depthwise", {"body.1", "body.3"}),
        ("cross stage", set()),
        ("concatenation", set()),
    ],
)
def test_blocks_that_keep_the_shape_and_have_a_shortcut_may_go(name, paths):
    assert {block.path for block in found_in(CNNS[name])[1]} == paths


@pytest.mark.parametrize(
    ("name", "stack", "count"),
    [
        ("fused qkv", "layers", 3),
        ("torch's own", "encoder.layers", 2),
        ("bert", "model.encoder.layer", 3),
        ("vit", "model.layers", 2),
        ("llama", "model.model.layers", 2),
        ("gpt2", "model.transformer.h", 2),
    ],
)
def test_layers_of_transformers_may_go(name, stack, count):
    blocks = found_in(TRANSFORMERS[name])[1]
    assert {block.stack for block in blocks} == {stack}
    assert len(blocks) == count
    assert [block.influence for block in blocks] == sorted(block.influence for block in blocks)


def test_convolutions_without_a_shortcut_are_no_blocks_to_drop():
    plain = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU())
    inputs = torch.randn(2, 4, 5, 5)
    assert not has_shortcut(plain, (inputs,), {})
    assert has_shortcut(CNNS["residual"].model().body[1], (torch.randn(2, 16, 5, 5),), {})


@pytest.mark.parametrize("name", ["fused qkv", "bert", "llama", "gpt2", "vit", "torch's own"])
def test_model_without_a_layer_gives_what_the_whole_one_gives_with_this_layer_passed_by(name):
    architecture = TRANSFORMERS[name]
    model, inputs = architecture.model(), architecture.inputs()
    shallow = drop_layers(model, inputs, 1)
    (path,) = shallow.dropped
    by_hand = copy.deepcopy(model)

    def pass_by(module, args, kwargs, output):
        given = args[0] if args else kwargs["hidden_states"]
        return (given, *output[1:]) if isinstance(output, tuple) else given

    by_hand.get_submodule(path).register_forward_hook(pass_by, with_kwargs=True)
    assert torch.allclose(shallow.model(inputs), by_hand(inputs), atol=1e-6)
    assert sum(p.numel() for p in shallow.model.parameters()) < sum(
        p.numel() for p in model.parameters()
    )


def test_layers_are_numbered_anew_and_counted():
    architecture = TRANSFORMERS["llama"]
    model = architecture.model()
    shallow = drop_layers(model, architecture.inputs(), 1).model
    layers = shallow.model.model.layers
    assert [name for name, _ in layers.named_children()] == ["0"]
    assert layers[0].self_attn.layer_idx == 0
    assert shallow.model.config.num_hidden_layers == 1
    assert model.model.config.num_hidden_layers == 2


def test_blocks_of_a_sequence_keep_their_names():
    architecture = CNNS["residual"]
    shallow = drop_layers(architecture.model(), architecture.inputs(), 1)
    left = {name for name, _ in shallow.model.body.named_children()}
    assert left == {"0", "1", "2", "3"} - {shallow.dropped[0].partition(".")[2]}


@pytest.mark.parametrize("name", ["residual", "bert", "torch's own"])
def test_shallow_model_can_be_written_down(name, tmp_path):
    architecture = (CNNS | TRANSFORMERS)[name]
    model, inputs = architecture.model(), architecture.inputs()
    shallow = drop_layers(model, inputs, 1).model
    save_state(shallow, model, tmp_path)
    assert torch.equal(load_state(model, tmp_path).model(inputs), shallow(inputs))


def test_names_before_lead_to_names_now():
    architecture = TRANSFORMERS["bert"]
    model = architecture.model()
    shallow = drop_layers(model, architecture.inputs(), 1)
    values = dict(shallow.model.named_parameters())
    for name, value in model.named_parameters():
        if name in shallow.renamed:
            assert torch.equal(values[shallow.renamed[name]], value)
    assert set(values) <= set(shallow.renamed.values())


def test_a_list_keeps_one_block():
    architecture = TRANSFORMERS["llama"]
    model, blocks = found_in(architecture)
    assert choose_blocks(model, blocks, 1) == blocks[:1]
    with pytest.raises(StepError, match="drop_layers is 2, and 1 layers may go"):
        choose_blocks(model, blocks, 2)


def test_a_sequence_with_something_else_in_it_may_lose_all_its_blocks():
    model, blocks = found_in(CNNS["residual"])
    assert len(choose_blocks(model, blocks, 2)) == 2


def test_model_without_blocks_says_how_many_may_go():
    architecture = CNNS["cross stage"]
    with pytest.raises(StepError, match="drop_layers is 1, and 0 layers may go"):
        drop_layers(architecture.model(), architecture.inputs(), 1)


def test_hooks_are_gone_and_modes_are_as_they_were():
    architecture = CNNS["residual"]
    model = architecture.model().train()
    find_blocks(model, [as_example(architecture.inputs())])
    assert all(module.training for module in model.modules())
    assert not any(module._forward_hooks for module in model.modules())
