"""Settings of the step "spread"."""

import pytest

from edgekit.core.errors import StepError
from edgekit.core.steps import Spread


@pytest.mark.parametrize("limit", [1, 0.5, -3.0, float("inf"), float("nan"), True, "8"])
def test_a_limit_that_every_layer_or_none_would_exceed_is_refused(limit):
    with pytest.raises(StepError, match=r"spread: limit is .* it must be a number above 1"):
        Spread(limit=limit)


def test_a_pattern_that_is_no_regular_expression_is_refused():
    with pytest.raises(StepError, match="spread: ignore"):
        Spread(ignore=("(",))
