from collections import OrderedDict, namedtuple
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from edgekit.compile.flat import flatten_interface, select_outputs
from edgekit.core.errors import WorkloadError

A, B = torch.zeros(1, 2), torch.ones(1, 3)


@dataclass
class Result:
    first: Tensor
    second: Tensor
    loss: Tensor | None = None


Pair = namedtuple("Pair", "first second")


@pytest.mark.parametrize(
    "result",
    [
        (A, B),
        [A, B],
        {"second": B, "first": A},
        OrderedDict(loss=B, second=B, first=A),
        Result(first=A, second=B),
        Pair(first=A, second=B),
    ],
)
def test_outputs_come_in_the_order_in_which_the_workload_names_them(result):
    first, second = select_outputs(result, ("first", "second"))
    assert first is A
    assert second is B


def test_a_tuple_with_field_names_of_its_own_is_taken_by_position():
    assert select_outputs(Pair(first=A, second=B), ("x", "y")) == (A, B)


def test_a_single_tensor_is_one_output():
    assert select_outputs(A, ("any",)) == (A,)


def test_too_few_names_for_a_tuple_say_what_came():
    with pytest.raises(WorkloadError, match=r"names 1 outputs \(x\), the model returns 2: float32"):
        select_outputs((A, B), ("x",))


def test_a_dict_without_a_named_output_says_what_it_has():
    with pytest.raises(WorkloadError, match="no output 'z'; it returns: 'first', 'second'"):
        select_outputs({"first": A, "second": B}, ("z",))


@pytest.mark.parametrize("result", [{"x": None}, ("text",), 3.0])
def test_an_output_that_is_no_tensor_is_refused(result):
    with pytest.raises(WorkloadError, match="it must be a tensor"):
        select_outputs(result, ("x",))


class Difference(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor([2.0]))

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return self.scale * (left - right)


def test_inputs_with_the_names_of_parameters_go_to_those_parameters():
    flat = flatten_interface(Difference(), ("right", "left"), ("y",))
    (y,) = flat(torch.ones(1), torch.full((1,), 5.0))
    assert y.item() == 8.0


def test_inputs_with_other_names_go_by_position():
    flat = flatten_interface(Difference(), ("a", "b"), ("y",))
    (y,) = flat(torch.ones(1), torch.full((1,), 5.0))
    assert y.item() == -8.0


def test_the_users_model_keeps_its_class_its_weights_and_its_interface():
    model = Difference()
    flat = flatten_interface(model, ("left", "right"), ("y",))
    assert type(model) is Difference
    assert isinstance(model(A, A), Tensor)
    assert flat.scale is model.scale
    assert [name for name, _ in flat.named_parameters()] == ["scale"]


def test_a_model_with_hooks_on_itself_is_refused():
    model = Difference()
    model.register_forward_hook(lambda module, args, output: output * 2)
    with pytest.raises(WorkloadError, match="hooks on its outermost module"):
        flatten_interface(model, ("left", "right"), ("y",))
