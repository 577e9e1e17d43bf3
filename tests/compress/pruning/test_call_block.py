import math
import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from edgekit.compress.pruning.call_block import (
    CallBlock,
    function_of,
    name_of,
    signature_of,
    to_plain,
)
from edgekit.compress.pruning.rewrite import UNWRITABLE, Captured, as_calls
from edgekit.compress.state import load_state, save_state
from edgekit.core.errors import StepError


class Everything(nn.Module):
    """What code of modules is made of: slices, tuples, lists, dtypes, keywords, parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.norm = nn.Linear(6, 8), nn.LayerNorm(8)
        self.gain = nn.Parameter(torch.full((8,), 2.0))
        self.register_buffer("shift", torch.ones(8), persistent=False)
        self.heads, self.name, self.unused = 2, "everything", None
        self.function = functional.gelu

    def forward(self, x: Tensor, scale: float = 0.5, extra: Tensor | None = None) -> Tensor:
        b, n, _ = x.shape
        y = self.norm(self.linear(x))[..., :8] * self.gain + self.shift
        y = y.reshape(b, n, self.heads, -1).permute(0, 2, 1, 3)
        left, right = y.chunk(2, dim=-1)
        y = torch.cat([left, self.function(right)], dim=-1).to(torch.float32)
        y = functional.dropout(y, 0.5, training=self.training)
        y = y / math.sqrt(4) * scale
        if extra is not None:
            y = y + extra
        return functional.pad(y[:, 0], (1, 1)).flatten(1)


def everything():
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        return Everything().eval()


def block_of(module, *args, **kwargs):
    with torch.no_grad():
        return as_calls(module, Captured(args=args, kwargs=kwargs, output=module(*args, **kwargs)))


INPUTS = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(0))


def test_block_gives_what_the_module_gave():
    module = everything()
    block = block_of(module, INPUTS)
    assert torch.equal(block(INPUTS), module(INPUTS))
    assert torch.equal(block(x=INPUTS), module(INPUTS))
    more = torch.randn(3, 5, 6)
    assert torch.equal(block(more), module(more))


def test_block_keeps_children_parameters_and_attributes():
    module = everything()
    block = block_of(module, INPUTS)
    assert dict(block.named_parameters()).keys() == dict(module.named_parameters()).keys()
    assert all(block.get_parameter(name) is value for name, value in module.named_parameters())
    assert (block.heads, block.name, block.replaced) == (2, "everything", "Everything")
    assert "shift" not in block.state_dict()
    assert "Everything" in repr(block)


def test_block_drops_out_in_training_and_not_in_eval_mode():
    block = block_of(everything(), INPUTS)
    assert torch.equal(block(INPUTS), block(INPUTS))
    assert not torch.equal(block.train()(INPUTS), block(INPUTS))


def test_block_can_be_exported():
    block = nn.Sequential(block_of(everything(), INPUTS))
    batch = torch.export.Dim("batch", min=1, max=8)
    program = torch.export.export(block, (INPUTS,), dynamic_shapes=({0: batch},))
    more = torch.randn(4, 5, 6)
    assert torch.allclose(program.module()(more), block(more), atol=1e-6)


def test_block_is_written_down_and_read_back_onto_the_module_that_it_was(tmp_path):
    base = nn.Sequential(everything())
    model = nn.Sequential(block_of(everything(), INPUTS))
    with torch.no_grad():
        model[0].gain.mul_(3)
    save_state(model, base, tmp_path)
    loaded = load_state(base, tmp_path).model
    assert torch.equal(loaded(INPUTS), model(INPUTS))
    assert {name for name, _ in loaded.named_parameters()} == {
        name for name, _ in base.named_parameters()
    }
    assert loaded[0].gain.requires_grad


def test_written_block_is_read_in_a_process_that_does_not_know_it(tmp_path):
    base = nn.Sequential(nn.Linear(4, 4))
    calls = (("a", "function", "torch:relu", ("tuple", ("node", "x")), ("dict",)),)
    model = nn.Sequential(CallBlock((("x", "required", None),), calls, ("node", "a")))
    save_state(model, base, tmp_path)
    code = (
        "import torch; from torch import nn; from pathlib import Path\n"
        "from edgekit.compress.state import load_state\n"
        f"model = load_state(nn.Sequential(nn.Linear(4, 4)), Path({str(tmp_path)!r})).model\n"
        "print(model(torch.tensor([-1.0, 2.0])).tolist())"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert result.stdout.strip() == "[0.0, 2.0]", result.stderr


def test_a_block_becomes_the_same_block():
    block = block_of(everything(), INPUTS)
    again = block_of(block, INPUTS)
    assert again.calls == block.calls
    assert again.replaced == "Everything"


@pytest.mark.parametrize(
    ("args", "kwargs", "message"),
    [
        ((), {}, "Everything needs 'x'"),
        ((INPUTS,), {"y": 1}, "Everything takes x, scale, extra"),
        ((INPUTS, 1, None, 2), {}, "Everything takes x, scale, extra"),
    ],
)
def test_calls_that_do_not_fit_are_errors(args, kwargs, message):
    block = block_of(everything(), INPUTS)
    with pytest.raises(TypeError, match=message):
        block(*args, **kwargs)


class Branching(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


class Greedy(nn.Module):
    def forward(self, *args):
        return args[0]


class Foreign(nn.Module):
    def forward(self, x):
        return torch.fft.rfft(x)


@pytest.mark.parametrize("module", [Branching(), Greedy(), Foreign()])
def test_code_that_cannot_be_written_as_calls_is_refused(module):
    with pytest.raises(UNWRITABLE):
        block_of(module, INPUTS)


def test_written_names_are_functions_of_torch_alone():
    assert function_of("functional:relu") is functional.relu
    assert function_of("operator:add")(1, 2) == 3
    for name in ("os:system", "builtins:nothing", "torch:float32", "relu"):
        with pytest.raises(StepError, match="which is no function of torch"):
            function_of(name)


@pytest.mark.parametrize(
    "name",
    ["builtins:eval", "builtins:exec", "builtins:open", "torch:load", "torch:compile", "torch:hub"],
)
def test_written_names_run_no_code(name):
    with pytest.raises(StepError, match="which is no function of torch"):
        function_of(name)


def test_functions_have_names():
    assert name_of(torch.cat) == "torch:cat"
    assert name_of(lambda x: x) is None


def test_values_that_are_no_plain_data_are_refused():
    with pytest.raises(TypeError, match="a Tensor cannot be written down"):
        to_plain(torch.zeros(2), lambda _: None)
    with pytest.raises(TypeError, match="takes any arguments"):
        signature_of(Greedy())
