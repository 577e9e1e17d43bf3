"""What a user's own function raises, as an error of edgekit."""

import pytest
import torch

from edgekit.compress.training.faults import faults_of
from edgekit.core.errors import StepError, WorkloadError


def _raised_in(error):
    with faults_of("the workload's loss", StepError, "two outputs"):
        raise error


@pytest.mark.parametrize("kind", [TypeError, KeyError, AttributeError, ZeroDivisionError])
def test_a_fault_is_told_with_its_kind_and_what_was_given(kind):
    message = rf"the workload's loss raised {kind.__name__}: .*why.*; it was given two outputs"
    with pytest.raises(StepError, match=message) as found:
        _raised_in(kind("why"))
    assert isinstance(found.value.__cause__, kind)


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("full"), KeyboardInterrupt(), WorkloadError("ours")]
)
def test_what_is_no_fault_of_the_function_passes_through(error):
    with pytest.raises(type(error)):
        _raised_in(error)
