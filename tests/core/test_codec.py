"""The codec gives back what it was given, and refuses everything else with the place."""

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.core.codec import canonical_json, digest_of, from_plain, nearest, to_plain
from edgekit.core.contract import Audio, Image, InputContract, Tensor, Text
from edgekit.core.errors import InputError, ProfileError
from edgekit.core.figure import Figure, Place, Provenance
from edgekit.core.profile import Fact, Hardware
from edgekit.core.strategy import Override, Quantize

SOURCES = [
    Image(height=3, width=2),
    Audio(rate_hz=8000, samples=100),
    Tensor(shape=(2, 3), dtype="int64"),
    Text(tokenizer="assets/tokenizer.json", length=8, part="mask"),
]


@pytest.mark.parametrize("source", SOURCES, ids=lambda item: item.kind)
def test_every_input_kind_survives_a_round_trip(source):
    contract = InputContract(name="x", dtype="float32", shape=("batch", 3), source=source)
    assert from_plain(InputContract, to_plain(contract), where="t") == contract


def test_generic_facts_keep_their_value_types():
    hardware = Hardware(
        abi="none",
        architecture=Fact(value="armv7e-m", source="manual"),
        features=Fact(value=("dsp",), source="manual"),
        cores=Fact(value=1, source="datasheet"),
    )
    assert from_plain(Hardware, to_plain(hardware), where="t") == hardware
    wrong = to_plain(hardware)
    wrong["cores"]["value"] = "one"
    with pytest.raises(InputError, match=r"t\.cores\.value: 'one' is not"):
        from_plain(Hardware, wrong, where="t")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"precison": "int8"}, "unknown key 'precison'; did you mean 'precision'"),
        ({"precision": "int7"}, "'int7' is not allowed"),
        ({"block_size": 1.5}, "block_size: 1.5 is not"),
        ({"block_size": True}, "block_size: True is not"),
        ({"is_unsigned": 1}, "is_unsigned: 1 is not"),
        ({"overrides": "conv1"}, "overrides: 'conv1' is not a list"),
        ({"overrides": [{"pattern": "a"}]}, r"overrides\[0\]: 'precision' is missing"),
    ],
)
def test_a_wrong_value_is_named_with_its_place(change, message):
    plain = {**to_plain(Quantize(precision="int8", activations="static")), **change}
    with pytest.raises(ProfileError, match=message):
        from_plain(Quantize, plain, where="p.toml", error=ProfileError)


def test_a_whole_number_serves_as_a_float_and_infinity_does_not():
    @dataclass(frozen=True)
    class Holder:
        value: float

    assert from_plain(Holder, {"value": 3}, where="t").value == 3.0
    for bad in (float("inf"), float("nan")):
        with pytest.raises(InputError, match="finite"):
            from_plain(Holder, {"value": bad}, where="t")


def test_an_optional_field_that_is_absent_stays_absent():
    figure = Figure(
        name="a",
        value=None,
        unit="ms",
        provenance=Provenance.NOT_EVALUATED,
        place=Place.NOWHERE,
        how="no device",
    )
    plain = to_plain(figure)
    assert "value" not in plain
    assert from_plain(Figure, plain, where="t") == figure
    del plain["unit"]
    with pytest.raises(InputError, match="'unit' is missing"):
        from_plain(Figure, plain, where="t")


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.text()
        | st.floats(allow_nan=False, allow_infinity=False),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=20,
    )
)
def test_nothing_that_json_can_hold_crashes_the_reader(plain):
    for cls in (Figure, Hardware, InputContract, Quantize):
        with pytest.raises(InputError):
            from_plain(cls, plain, where="t")


def test_canonical_json_is_one_encoding_whatever_the_order():
    assert canonical_json({"b": 1, "a": [1.5, "é"]}) == '{"a":[1.5,"é"],"b":1}\n'.encode()
    assert digest_of({"a": 1, "b": 2}) == digest_of({"b": 2, "a": 1})
    with pytest.raises(ValueError, match="JSON"):
        canonical_json({"a": float("nan")})
    with pytest.raises(TypeError, match="no plain form"):
        to_plain({"a": object()})


def test_a_value_that_is_none_of_a_few_is_told_with_all_of_them():
    wanted = r"precision: 'int2' is not allowed; did you mean 'int8'\? allowed: bf16, .*, nf4$"
    with pytest.raises(InputError, match=wanted):
        from_plain(Quantize, {"precision": "int2", "activations": "none"}, where="t")


def test_nearest_suggests_or_lists():
    assert nearest("fon", ["phone", "laptop"]) == "; did you mean 'phone'?"
    assert nearest("zzzz", ["phone", "laptop"]) == "; allowed: laptop, phone"


def test_overrides_are_rebuilt_as_dataclasses():
    plain = {
        "precision": "int8",
        "activations": "static",
        "overrides": [{"pattern": "head", "precision": "float"}],
    }
    built = from_plain(Quantize, plain, where="t")
    assert built.overrides == (Override(pattern="head", precision="float"),)
