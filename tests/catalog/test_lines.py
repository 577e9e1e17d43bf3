"""Lines of keys, against the lines that a person counts."""

from hypothesis import given
from hypothesis import strategies as st

from edgekit.catalog.lines import key_lines


def test_lines_of_plain_keys_and_tables():
    text = "a = 1\n# note\n\n[t]\nb = 2\n[t.u]\nc = 3\n"
    assert key_lines(text) == {
        ("a",): 1,
        ("t",): 4,
        ("t", "b"): 5,
        ("t", "u"): 6,
        ("t", "u", "c"): 7,
    }


def test_lines_after_values_that_span_several_lines():
    text = 'a = """\nx = 1\n"""\nb = [\n  1, # one\n  "]",\n]\nc = \'\'\'\n[d]\'\'\'\nlast = 0\n'
    lines = key_lines(text)
    assert (lines["b",], lines["b", 1], lines["last",]) == (4, 6, 10)


def test_lines_inside_inline_tables_and_arrays_of_tables():
    text = (
        "[[step]]\nname = 'a'\n[step.settings]\nratio = 0.5\n[[step]]\n"
        'name = "b"\nsettings = { x = 1, "y z" = [{ w = 2 }], d.e = 3 }\n'
    )
    lines = key_lines(text)
    assert lines["step", 0, "settings", "ratio"] == 4
    assert lines["step", 1] == 5
    assert lines["step", 1, "settings", "y z"] == 7
    assert lines["step", 1, "settings", "y z", 0, "w"] == 7
    assert lines["step", 1, "settings", "d", "e"] == 7


def test_dotted_and_quoted_keys():
    lines = key_lines('a.b = 1\na.\'c.d\' = 2\n"q\\"r" = 3\n[ x . "y" ]\nz = 4')
    assert lines["a", "b"] == 1
    assert lines["a", "c.d"] == 2
    assert lines['q"r',] == 3
    assert lines["x", "y", "z"] == 5


def test_quotes_at_the_end_of_a_long_string():
    lines = key_lines('a = """two quotes: """""\nb = \'\'\'one: \'\'\'\'\nc = ""\nd = 1\n')
    assert lines["d",] == 4


@given(
    st.lists(
        st.tuples(
            st.from_regex(r"[a-z]{1,3}", fullmatch=True),
            st.sampled_from(["1", '"x#y"', "[1,\n2]", "{ p = [3] }", '"""\n\n"""', "1.5 # [no]"]),
        ),
        unique_by=lambda pair: pair[0],
    )
)
def test_every_key_stands_where_it_was_written(pairs):
    text, expected = "", {}
    for key, value in pairs:
        expected[key] = text.count("\n") + 1
        text += f"{key} = {value}\n"
    lines = key_lines(text)
    assert {key: lines[key,] for key in expected} == expected
