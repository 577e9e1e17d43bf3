"""The comparison as a person reads it, at any width."""

import io

import pytest
from rich.console import Console

from edgekit.core.debugging import DebugResult, LayerError, Mend, OutputError
from edgekit.report.debug import debug_view


def layer(name, snr_db, input_snr_db, added_snr_db, **more):
    return LayerError(
        operator="CONV_2D",
        layer=name,
        tensor=name,
        weights="int8",
        snr_db=snr_db,
        cosine=0.98765,
        input_snr_db=input_snr_db,
        added_snr_db=added_snr_db,
        **more,
    )


LAYERS = (
    layer("stem", 45.25, 150.0, 45.25, saturated_share=0.0125, weight_snr_db=44.0),
    layer("blocks.0", 3.0, 45.25, 3.0),
    layer("blocks.1", 3.0, 3.0, 150.0),
)


def result(**changes):
    given = {
        "bundle_id": "f" * 64,
        "float_source": "the cache",
        "matched_by": "name",
        "samples": 8,
        "layers": LAYERS,
        "outputs": (OutputError(name="scores", snr_db=2.5, cosine=0.7),),
        "compared_layers": 3,
        "all_layers": 4,
        "unmatched": ("CONV_2D 7: the float model has no counterpart",),
        "first_wrong": 1,
        "mends": (Mend(evidence="it saturates", remedy="calibrate on more samples"),),
        "engine_difference": 2.5,
    }
    return DebugResult(**{**given, **changes})


def text(given, width=120, **more):
    stream = io.StringIO()
    console = Console(file=stream, width=width, markup=False)
    for item in debug_view(given, **more):
        console.print(item)
    return stream.getvalue()


def test_the_wrong_layer_its_evidence_and_its_remedy_are_named():
    shown = text(result())
    assert "First goes wrong: CONV_2D 'blocks.0': 3.0 dB come out, 45.2 came in" in shown
    assert "it saturates: calibrate on more samples" in shown
    [line] = [line for line in shown.splitlines() if line.endswith("first")]
    assert line.split()[:4] == ["blocks.0", "CONV_2D", "int8", "3.0"]


def test_what_was_not_compared_is_named_with_the_share_that_was():
    shown = text(result())
    assert "3 of 4 layers with weights, matched by name" in shown
    assert "CONV_2D 7: the float model has no counterpart" in shown
    assert "2.5 times the tolerance" in shown
    assert "tolerance" not in text(result(engine_difference=0.9))


def test_the_ends_of_the_scale_are_words():
    rows = text(result()).splitlines()
    [stem] = [row.split() for row in rows if row.startswith("stem")]
    assert stem == [
        "stem",
        "CONV_2D",
        "int8",
        "45.2",
        "0.9877",
        "exact",
        "45.2",
        "-",
        "44.0",
        "1.2%",
    ]
    [last] = [row.split() for row in rows if row.startswith("blocks.1")]
    assert last[6] == "none"


def test_an_error_that_grows_names_who_adds_most():
    shown = text(result(first_wrong=None, largest=(2, 0)))
    assert "No single layer goes wrong" in shown
    assert "to 2.5 dB at the output" in shown
    assert "Most of it is added by 'blocks.1', 'stem'" in shown


def test_a_good_artifact_is_said_to_be_good():
    good = result(first_wrong=None, outputs=(OutputError(name="y", snr_db=30.0, cosine=1.0),))
    assert "No layer goes wrong, and the outputs are near the float ones" in text(good)


def test_only_some_layers_are_shown_where_that_is_asked():
    shown = text(result(first_wrong=None), only=r"blocks\.1")
    assert "blocks.1" in shown
    assert "stem" not in shown


@pytest.mark.parametrize("width", [70, 80, 200])
def test_numbers_are_never_broken(width):
    shown = text(result(), width=width)
    assert "0.9877" in shown
    assert max(map(len, shown.splitlines())) <= width
