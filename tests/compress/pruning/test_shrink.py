import pytest
import torch

from edgekit.compress.pruning.shrink import shrink_to
from edgekit.core.errors import StepError
from tests.compress.architectures import CNNS, TRANSFORMERS


def shrunk(name, **budget):
    architecture = (CNNS | TRANSFORMERS)[name]
    return shrink_to(architecture.model(), architecture.inputs(), **budget)


@pytest.mark.parametrize("name", ["residual", "padded shortcuts", "depthwise", "bert", "fused qkv"])
@pytest.mark.parametrize("share", [0.5, 0.25])
def test_student_is_within_its_parameters_and_runs(name, share):
    architecture = (CNNS | TRANSFORMERS)[name]
    whole = sum(value.numel() for value in architecture.model().parameters())
    limit = int(share * whole)
    student = shrunk(name, parameters=limit)
    have = sum(value.numel() for value in student.model.parameters())
    assert 0.6 * limit < have <= limit
    assert student.before.parameters == whole
    outputs = student.model(architecture.inputs())
    assert outputs.shape == architecture.model()(architecture.inputs()).shape


def test_student_is_shallower_and_narrower():
    student = shrunk("residual", parameters=6_000)
    assert student.dropped
    assert student.model.body[0][0].out_channels < 16


def test_student_inherits_weights():
    whole = CNNS["residual"].model()
    student = shrunk("residual", parameters=12_000)
    rows = set(range(16)) - set(student.removed["body.0.0"])
    assert torch.equal(student.model.body[0][0].weight, whole.body[0][0].weight[sorted(rows)])


def test_student_is_within_its_macs():
    student = shrunk("depthwise", macs=300_000)
    assert 180_000 < student.after.macs <= 300_000


def test_student_is_within_its_bytes_with_its_container():
    student = shrunk("residual", bytes=18_000, bits=4)
    assert student.after.artifact_bytes(4) <= 18_000
    whole = shrunk("residual", bytes=36_000, bits=8)
    assert whole.after.artifact_bytes(8) <= 36_000
    assert whole.after.parameters > student.after.parameters


def test_few_bytes_take_layers_and_not_width_alone():
    """A layer costs 650 bytes whatever its width, so a tight file cannot keep them all."""
    student = shrunk("residual", bytes=9_000, bits=4)
    assert len(student.dropped) == 2
    assert student.after.layers < student.before.layers


def test_several_limits_all_hold():
    student = shrunk("residual", parameters=20_000, macs=900_000)
    assert student.after.parameters <= 20_000
    assert student.after.macs <= 900_000


def test_channel_counts_are_multiples():
    student = shrunk("residual", parameters=15_000, multiple=8)
    assert all(
        module.out_channels % 8 == 0
        for module in student.model.modules()
        if isinstance(module, torch.nn.Conv2d)
    )


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        ({}, "the budget is none"),
        ({"parameters": 10**9}, "nothing to shrink"),
        ({"parameters": 50}, "50 parameters are out of reach"),
        ({"bytes": 4_000}, "out of reach.*a file needs about"),
    ],
)
def test_budgets_that_make_no_student_are_errors(budget, message):
    with pytest.raises(StepError, match=message):
        shrunk("residual", **budget)


def test_width_of_a_transformer_goes_where_nothing_else_is_left():
    assert shrunk("fused qkv", parameters=7_000).model.tokens.out_features == 32
    assert shrunk("fused qkv", parameters=1_500).model.tokens.out_features < 32
