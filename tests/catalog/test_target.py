"""Targets: typed values, mistakes with their line, quick look-ups."""

import contextlib
import hashlib

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgekit.catalog import load_target
from edgekit.core.errors import ProfileError
from edgekit.core.target import Target
from tests.catalog.conftest import OPERATORS, TARGET


def test_a_target_becomes_typed_values(home):
    path = home.target("mine")
    target = load_target("mine")
    assert (target.name, target.suffix, target.compiler) == ("mine", ".tflite", "litert")
    assert target.toolchain.requirements == ("ai-edge-litert==2.3.0",)
    assert target.runtime_library("linux-x86_64").bytes == 1000
    assert target.runtime_library("none") is None
    assert target.precisions[0].layers == ("conv", "linear")
    assert target.digests == {
        f"targets/mine/{item}": hashlib.sha256((path.parent / item).read_bytes()).hexdigest()
        for item in ("target.toml", "operators.toml")
    }


def test_an_operator_is_what_its_list_says_and_else_unsupported(home):
    home.target("mine")
    target = load_target("mine")
    expected = {
        "aten.relu.default": "native",
        "aten.abs.default": "native",
        "aten.lstm.input": "fallback",
        "aten.svd.default": "unsupported",
        "aten.aaa.default": "unsupported",
        "zzz": "unsupported",
    }
    assert {name: target.support_of(name).support for name in expected} == expected
    assert target.support_of("aten.lstm.input").note == "becomes mm, sigmoid, tanh"
    assert target.support_of("zzz").note == "not in the target's list"


MISTAKES = [
    ("suffix", "sufix", r"mine/target.toml:5: unknown key 'sufix' .*did you mean 'suffix'"),
    ('".tflite"', '"tflite"', r":5: 'suffix' is 'tflite', not a suffix such as"),
    ('"2.3.0"\n\n[tool', '"new"\n\n[tool', r":9: .*not a version such as 1.2.3"),
    ("litert==2.3.0", "litert>=2.3.0", r":12: .*not a requirement with an exact version"),
    ('name = "NAME"', 'name = "yours"', r":2: the name is 'yours', the folder's name says 'mine'"),
    ('"int8"', '"int9"', r":16: 'int9' is no precision; did you mean"),
    ('"linear"]', '"dense"]', r":17: 'dense' is no kind of layer"),
    ('"linux-x86_64"', '"none"', r":20: bare metal has no runtime library"),
    ("bytes = 1000", 'bytes = "1 kB"', r":21: .*not a whole number"),
    ('"0000', '"xyz0', r":23: .*not 64 hexadecimal digits"),
    ("[[runtime_library]]", "[[runtime_library]]\n[[runtime_library]]", r"'abi' is missing"),
    ("[[precision]]", "[precision]", r"not a list"),
    ("schema = 1", "schema = 7", r"schema 7 is not known"),
]


@pytest.mark.parametrize(("old", "new", "message"), MISTAKES)
def test_a_mistake_in_a_target_has_its_line(home, old, new, message):
    assert old in TARGET
    home.target("mine", TARGET.replace(old, new, 1))
    with pytest.raises(ProfileError, match=message):
        load_target("mine")


BOUND = 'at_most_bytes = 5000\nat_most_source = "a wheel for another system"\n'


def with_library(home, *lines, version="2.3.0"):
    text = TARGET.replace('version = "2.3.0"\nsha', f'version = "{version}"\nsha')
    home.target("mine", text + "".join(lines))
    return load_target("mine").runtime_library("linux-x86_64")


def test_a_library_is_exact_unless_it_has_an_upper_bound(home):
    library = with_library(home)
    assert (library.at_most_bytes, library.upper_bytes, library.is_stand_in) == (None, 1000, False)
    library = with_library(home, BOUND)
    assert (library.bytes, library.upper_bytes) == (1000, 5000)
    assert library.at_most_source == "a wheel for another system"


def test_another_versions_library_needs_a_bound_or_is_a_stand_in(home):
    with pytest.raises(
        ProfileError,
        match=r"target.toml:\d+: the library is of version 2.2.0, the artifacts are proven on "
        r"2.3.0: state 'at_most_bytes' and 'at_most_source' .*, or 'is_stand_in = true'",
    ):
        with_library(home, version="2.2.0")
    assert with_library(home, BOUND, version="2.2.0").upper_bytes == 5000
    assert with_library(home, "is_stand_in = true\n", version="2.2.0").is_stand_in


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("at_most_bytes = 5000\n", "go together: a bound needs its reason"),
        ('at_most_source = "a wheel"\n', "go together: a bound needs its reason"),
        (BOUND.replace("5000", "999"), "'at_most_bytes' .*999"),
        ("is_stand_in = 1\n", "'is_stand_in'"),
    ],
)
def test_a_wrong_bound_is_refused(home, lines, message):
    with pytest.raises(ProfileError, match=message):
        with_library(home, lines)


def test_what_stands_twice_is_refused(home):
    home.target("mine", TARGET + TARGET[TARGET.index("[[runtime") :])
    with pytest.raises(ProfileError, match="the library for 'linux-x86_64' stands twice"):
        load_target("mine")
    home.target("mine", TARGET + '[[precision]]\nname = "int8"\nlayers = []\n')
    with pytest.raises(ProfileError, match="precision 'int8' stands twice"):
        load_target("mine")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("aten.svd.default", "aten.relu.default", r"operators.toml:4: .*both native and unsup"),
        ('"aten.lstm.input" =', '"aten.gru.input" =', r"operators.toml:7: a note on 'aten.gru"),
        ("fallback =", "falback =", r"operators.toml:3: unknown key 'falback'; did|did you mean"),
        ("schema = 1", "schema = 3", r"schema 3 is not known"),
    ],
)
def test_a_mistake_in_the_operators_has_its_line(home, old, new, message):
    home.target("mine", TARGET, OPERATORS.replace(old, new, 1))
    with pytest.raises(ProfileError, match=message):
        load_target("mine")


def test_a_target_without_operators_is_refused(home):
    home.target("mine").with_name("operators.toml").unlink()
    with pytest.raises(ProfileError, match=r"operators.toml does not exist"):
        load_target("mine")


@settings(
    deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.data())
def test_a_damaged_target_is_read_or_refused(home, data):
    texts = {"target": TARGET.replace("NAME", "mine"), "operators": OPERATORS}
    name = data.draw(st.sampled_from(sorted(texts)))
    start = data.draw(st.integers(0, len(texts[name])))
    end = data.draw(st.integers(start, len(texts[name])))
    texts[name] = texts[name][:start] + data.draw(st.text(max_size=5)) + texts[name][end:]
    path = home.target("mine")
    for key, content in texts.items():
        (path.parent / f"{key}.toml").write_bytes(content.encode("utf-8", "surrogatepass"))
    with contextlib.suppress(ProfileError):
        assert isinstance(load_target("mine"), Target)
