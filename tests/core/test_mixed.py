"""Settings of mixed precision that cannot be meant."""

import pytest

from edgekit.core.codec import from_plain
from edgekit.core.errors import StepError
from edgekit.core.mixed import Mixed


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"candidates": ["int8"]}, "at least two different"),
        ({"candidates": ["int8", "int8"]}, "at least two different"),
        ({"candidates": ["fp16", "float"]}, "int8 or int4 among them"),
        ({"candidates": ["int8", "int3"]}, r"mixed\.candidates\[1\]: 'int3' is not allowed"),
        ({"max_bytes": -1}, "max_bytes is -1"),
        ({"max_latency_ratio": -0.5}, "max_latency_ratio is -0.5"),
        ({"samples": 0}, "samples is 0"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(settings, said):
    with pytest.raises(StepError, match=said):
        from_plain(Mixed, settings, where="mixed", error=StepError)


def test_what_no_plan_knows_gets_the_most_bits_of_the_integers():
    assert Mixed(candidates=("int4", "fp16", "int8")).base == "int8"
    assert Mixed(candidates=("int4", "float")).base == "int4"
    assert Mixed(candidates=("float", "int4", "int8")).ordered() == ("int4", "int8", "float")
