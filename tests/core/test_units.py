"""Quantities read as people write them."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.core.errors import InputError
from edgekit.core.units import (
    format_bytes,
    format_quantity,
    parse_bytes,
    parse_hertz,
    parse_milliseconds,
)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("512 B", 512),
        ("100 MB", 100_000_000),
        ("4 MiB", 4_194_304),
        ("0.5kB", 500),
        ("1_000 kB", 1_000_000),
        ("2 GiB", 2**31),
    ],
)
def test_bytes_are_decimal_and_binary(text, count):
    assert parse_bytes(text) == count


@pytest.mark.parametrize(
    "text", ["100", "MB", "100 mb", "-1 MB", "1e999999 MB x", "", "1 M B", "1.2.3 GB", "9e999 GB"]
)
def test_what_is_no_quantity_is_refused_with_the_units(text):
    with pytest.raises(InputError, match="MiB"):
        parse_bytes(text)


def test_times_and_clocks():
    assert parse_milliseconds("250 us") == 0.25
    assert parse_milliseconds("2 s") == 2000
    assert parse_hertz("133 MHz") == 133_000_000


@given(st.text())
def test_any_text_is_a_number_or_an_input_error(text):
    with suppress(InputError):
        assert parse_bytes(text) >= 0


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (71_234_567, "71.2 MB")]
)
def test_bytes_print_short(count, text):
    assert format_bytes(count) == text
    assert format_quantity(count, "bytes") == text
    assert format_quantity(0.123456, "ms") == "0.1235 ms"
