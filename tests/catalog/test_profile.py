"""Profiles: every mistake has its line, inheritance is what the child says."""

import hashlib

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgekit.catalog import FIGURES, load_profile
from edgekit.core.codec import to_plain
from edgekit.core.errors import ProfileError
from edgekit.core.profile import DeviceProfile
from edgekit.core.verdict import EvidenceKind, Sense
from tests.catalog.conftest import PROFILE

ANY_TIME = settings(
    deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def test_a_profile_becomes_typed_values(home):
    path = home.profile("board")
    profile = load_profile("board")
    assert profile.reserve_ram == 10**9
    assert profile.hardware.ram_bytes.value == 8 * 10**9
    assert profile.hardware.ram_bytes.source == "manual, page 3"
    assert profile.hardware.features.value == ("neon", "dotprod")
    (limit,) = profile.limits
    assert (limit.figure, limit.sense, limit.bound) == ("artifact_bytes", Sense.AT_MOST, 10**7)
    assert (limit.unit, limit.accepts) == ("bytes", (EvidenceKind.HOST,))
    assert limit.source == "board.toml:15"
    assert [step.name for step in profile.steps] == ["distil", "quantize"]
    assert profile.steps[0].when == "training data"
    assert profile.steps[1].is_required
    assert profile.steps[1].settings == {"precision": "int8"}
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert profile.digests == {"device_profiles/board.toml": digest}
    assert to_plain(profile)["name"] == "board"


# What is replaced, by what, and what the message must hold.
MISTAKES = [
    ("ram = {", "ram_mb = {", r":12: unknown key 'ram_mb' in \[hardware\]; did you mean 'ram'\?"),
    ('"8 GB"', '"8 GX"', r":12: 'value' in \[hardware.ram\]: '8 GX' is not a quantity; .*GiB"),
    ('"8 GB"', "8", r":12: 'value' in \[hardware.ram\] is 8; write a text of a number and"),
    ('"8 GB"', '"1.2.3 GB"', r":12: .*'1.2.3 GB' is not"),
    ('"8 GB"', '"9e999 GB"', r":12: .*"),
    ('"8 GB"', '"9e99 GB"', r":12: .*larger than any device"),
    (', source = "manual, page 3"', "", r":12: 'source' is missing in \[hardware.ram\]"),
    ('"manual, page 3"', '" "', r":12: 'source' in \[hardware.ram\] is empty"),
    ('family = "phone"', 'family = "fone"', r":4: 'fone' is no family; did you mean 'phone'"),
    ('family = "phone"\n', "", r":1: 'family' is missing in the file's top level"),
    ('abi = "android-arm64"', 'abi = "andriod-arm64"', r":9: .*did you mean 'android-arm64'"),
    ('"dotprod"', '"dot_prod"', r":11: 'dot_prod' is no instruction set.*did you mean 'dotprod'"),
    ('"dotprod"', '"neon"', r":11: .*names 'neon' twice"),
    ('["neon", "dotprod"]', '"neon"', r":11: .*is 'neon', not a list"),
    ("schema = 1", "schema = 2", r":1: schema 2 is not known to this edgekit; it reads schema 1"),
    ("schema = 1", "schema = true", r":1: 'schema' is true, not a whole number"),
    ("schema = 1\n", "", r"'schema' is missing"),
    ('name = "NAME"', 'name = "other"', r":2: the name is 'other', the file's name says 'board'"),
    ('reserve_ram = "1 GB"', "reserve_ram = true", r":6: 'reserve_ram' is true; write"),
    ('reserve_ram = "1 GB"', "threads = 0", r":6: 'threads' is 0, outside 1 to 1024"),
    ('reserve_ram = "1 GB"', "float_share_tolerance = nan", r":6: .*outside 0 to 1"),
    ('reserve_ram = "1 GB"', "float_share_tolerance = '1'", r":6: .*not a plain number"),
    ('reserve_ram = "1 GB"', "is_generic = 1", r":6: 'is_generic' is 1, not true or false"),
    ('reserve_ram = "1 GB"', f"threads = {'9' * 40}", r":6: .*a number of more than 30 digits"),
    ("[limits.artifact_bytes]", "[limits.artifact_size]", r":14: unknown figure 'artifact_size'"),
    ("[limits.artifact_bytes]", "[limits.load_ms]", r":15: .*'10 MB' .* us, ms, s"),
    ("[limits.artifact_bytes]", "[limits.latency_ratio]", r":15: .*is '10 MB', not a plain number"),
    ("at_most", "at_moist", r":15: unknown key 'at_moist' .*did you mean 'at_most'"),
    ('at_most = "10 MB"\n', "", r":14: \[limits.artifact_bytes\] must state one of at_most and"),
    ('at_most = "10 MB"', 'at_most = "1 B"\nat_least = "1 B"', r":14: .*it states 2"),
    (
        'accepts = ["host"]',
        'accepts = ["hots"]',
        r":16: 'hots' is no evidence; did you mean 'host'",
    ),
    ('accepts = ["host"]', "accepts = []", r":16: .*accepts no evidence"),
    ('accepts = ["host"]', "", r":14: 'accepts' is missing"),
    ("required = true", "required = false", r":23: .*must say either required = true or when"),
    ("required = true", 'required = true\nwhen = "student"', r":23: .*must say either"),
    ('when = "training data"', 'when = "training date"', r":20: .*did you mean 'training data'"),
    ('name = "distil"', 'name = "quantize"', r":23: step 'quantize' stands twice"),
    ('{ precision = "int8" }', "{ day = 2020-01-01 }", r":27: .*only texts, numbers"),
    ('{ precision = "int8" }', "{ x = [inf] }", r":27: .*is inf, outside"),
    ('{ precision = "int8" }', '"int8"', r":27: .*is 'int8', not a table"),
    ('reserve_ram = "1 GB"', 'extends = "phoen"', r":6: no device profile is called 'phoen'"),
    ('reserve_ram = "1 GB"', 'extends = "./phone.toml"', r":6: .*a name of a profile|not a path"),
    (
        'reserve_ram = "1 GB"',
        'extends = "board"',
        r":6: profiles extend each other: board -> board",
    ),
]


@pytest.mark.parametrize(("old", "new", "message"), MISTAKES)
def test_a_mistake_is_told_with_its_line_and_what_is_allowed(home, old, new, message):
    assert old in PROFILE
    home.profile("board", PROFILE.replace(old, new, 1))
    with pytest.raises(ProfileError, match=message) as caught:
        load_profile("board")
    assert str(caught.value).startswith("board.toml:")


@pytest.mark.parametrize(
    ("figure", "bound", "accepts"),
    [
        ("flash_bytes", '"1 MB"', "host"),
        ("ram_bytes", '"1 MB"', "cited"),
        ("latency_ms", '"5 ms"', "host"),
    ],
)
def test_a_host_cannot_settle_what_only_the_device_can(home, figure, bound, accepts):
    limit = f'[limits.{figure}]\nat_most = {bound}\naccepts = ["{accepts}"]\n'
    home.profile("board", PROFILE.replace("[[strategy", limit + "[[strategy", 1))
    with pytest.raises(ProfileError, match=f"{figure} cannot be settled on '{accepts}'"):
        load_profile("board")


def test_every_figure_takes_its_own_unit(home):
    text = {"bytes": '"2 kB"', "points": '"0.5 point"', "ratio": "1.05", "ms": '"2 s"'}
    value = {"bytes": 2000.0, "points": 0.5, "ratio": 1.05, "ms": 2000.0}
    for figure, kind in FIGURES.items():
        limit = f'[limits.{figure}]\nat_least = {text[kind.unit]}\naccepts = ["device"]\n'
        start, end = PROFILE.index("[limits"), PROFILE.index("[[strategy")
        home.profile("board", PROFILE[:start] + limit + PROFILE[end:])
        (found,) = load_profile("board").limits
        assert (found.unit, found.bound) == (kind.unit, value[kind.unit])
        assert found.sense is Sense.AT_LEAST


def test_no_limits_and_no_steps_are_refused(home):
    start, end = PROFILE.index("[limits"), PROFILE.index("[[strategy")
    home.profile("board", PROFILE[:start] + "[limits]\n" + PROFILE[end:])
    with pytest.raises(ProfileError, match="nothing could be proven"):
        load_profile("board")
    home.profile("board", PROFILE[:end] + "[strategy]\nstep = []\n")
    with pytest.raises(ProfileError, match="has no steps"):
        load_profile("board")


CHILD = """\
schema = 1
name = "NAME"
title = "A child"
extends = "parent"

[hardware]
ram = { value = "4 GB", source = "another manual" }

[limits.artifact_bytes]
at_most = "5 MB"

[limits.metric_drop]
at_most = "1 point"
accepts = ["host"]
"""


def test_a_child_inherits_everything_that_it_does_not_say(home):
    parent = PROFILE.replace("reserve_ram", 'summary = "of the parent"\nreserve_ram')
    home.profile("parent", parent)
    home.profile("board", CHILD)
    profile = load_profile("board")
    assert (profile.extends, profile.title, profile.summary) == (("parent",), "A child", "")
    assert profile.reserve_ram == 10**9
    assert profile.hardware.ram_bytes.value == 4 * 10**9
    assert profile.hardware.features.source == "manual, page 2"
    assert [limit.figure for limit in profile.limits] == ["artifact_bytes", "metric_drop"]
    assert profile.limits[0].bound == 5 * 10**6
    assert profile.limits[0].accepts == (EvidenceKind.HOST,)
    assert profile.limits[0].source == "board.toml:10"
    assert [step.name for step in profile.steps] == ["distil", "quantize"]
    assert list(profile.digests) == ["device_profiles/board.toml", "device_profiles/parent.toml"]


def test_steps_are_replaced_as_a_whole(home):
    home.profile("parent")
    steps = '[[strategy.step]]\nname = "quantize"\nrequired = true\nreason = "r"\n'
    home.profile("board", CHILD + steps)
    (step,) = load_profile("board").steps
    assert step.settings == {}


def test_a_new_bound_replaces_the_old_one_of_either_sense(home):
    home.profile("parent")
    home.profile("board", CHILD.replace("at_most", "at_least", 1))
    assert load_profile("board").limits[0].sense is Sense.AT_LEAST


def test_a_fact_is_replaced_with_its_source(home):
    home.profile("parent")
    home.profile("board", CHILD.replace(', source = "another manual"', ""))
    with pytest.raises(ProfileError, match=r"board\.toml:7: 'source' is missing"):
        load_profile("board")


def test_what_a_generic_profile_assumes_is_no_fact_of_a_child(home):
    home.profile("parent", PROFILE.replace("reserve_ram", "is_generic = true\nreserve_ram"))
    home.profile("board", CHILD.replace("ram = {", "flash = {"))
    profile = load_profile("board")
    assert load_profile("parent").hardware.ram_bytes is not None
    assert profile.hardware.ram_bytes is None
    assert not profile.is_generic
    assert profile.hardware.architecture.value == "aarch64"


def test_a_mistake_in_a_parent_names_the_parents_line(home):
    home.profile("parent", PROFILE.replace('"dotprod"', '"dotprot"'))
    home.profile("board", CHILD)
    with pytest.raises(ProfileError, match=r"^parent\.toml:11: 'dotprot'"):
        load_profile("board")


def test_profiles_that_extend_each_other_are_refused(home):
    home.profile("parent", PROFILE.replace("reserve_ram", 'extends = "board"\nreserve_ram'))
    home.profile("board", CHILD)
    with pytest.raises(ProfileError, match="extend each other: board -> parent -> board"):
        load_profile("board")


def test_a_users_phone_may_extend_the_built_in_phone(home):
    home.profile("phone", CHILD.replace('"parent"', '"phone"'))
    profile = load_profile("phone")
    assert (profile.title, profile.extends) == ("A child", ("phone",))
    assert profile.steps[-1].settings == {"precision": "int8"}
    assert list(profile.digests) == ["device_profiles/phone.toml", "device_profiles/phone.toml+"]


def test_the_same_digests_wherever_the_file_lies(home):
    here, there = home.profile("board"), home.profile("board", root="x")
    assert load_profile(str(here)).digests == load_profile(str(there)).digests


def load_or_refuse(home, content):
    path = home.folder / "board.toml"
    path.write_bytes(content)
    try:
        return load_profile(str(path))
    except ProfileError:
        return None


@ANY_TIME
@given(st.text())
def test_any_text_is_a_profile_or_a_profile_error(home, text):
    assert load_or_refuse(home, text.encode("utf-8", "surrogatepass")) is None


@ANY_TIME
@given(st.data())
def test_a_damaged_profile_is_read_or_refused(home, data):
    content = bytearray(PROFILE.replace("NAME", "board").encode())
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(content)))
        end = data.draw(st.integers(start, min(len(content), start + 12)))
        content[start:end] = data.draw(
            st.sampled_from(
                [b"", b'"', b"[", b"]", b"\n", b"=", b"{", b"}", b"#", b"9", b"-", b".", b"nan",
                 b"1979-05-27", b"true", b"'''", b'"""', b"\\u0000", b"\xff", b"[[strategy]]\n"]
            )
        )  # fmt: skip
    found = load_or_refuse(home, bytes(content))
    assert found is None or isinstance(found, DeviceProfile)


VALUES = st.recursive(
    st.booleans()
    | st.integers()
    | st.sampled_from(['"x"', '""', "1e400", "nan", "07:32:00", '"1 GB"', '"host"', "-1"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("ab"), inner),
    max_leaves=5,
)


def as_toml(value):
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{', '.join(map(as_toml, value))}]"
    if isinstance(value, dict):
        return f"{{ {', '.join(f'{key} = {as_toml(item)}' for key, item in value.items())} }}"
    return str(value)


@ANY_TIME
@given(st.integers(0, 30), VALUES)
def test_any_value_in_any_place_is_read_or_refused(home, place, value):
    lines = PROFILE.replace("NAME", "board").splitlines()
    places = [index for index, line in enumerate(lines) if " = " in line]
    index = places[place % len(places)]
    lines[index] = f"{lines[index].split(' = ')[0]} = {as_toml(value)}"
    found = load_or_refuse(home, "\n".join(lines).encode())
    assert found is None or isinstance(found, DeviceProfile)
