"""Decibels by hand, and the rule by which a layer goes wrong."""

import pytest

from edgekit.core.debugging import (
    HIGHEST_DB,
    LOWEST_DB,
    DebugResult,
    LayerError,
    OutputError,
    decibels,
    noise_ratio,
)


def layer(snr_db, input_snr_db, added_snr_db):
    return LayerError(
        operator="Conv",
        layer="stem",
        tensor="x",
        weights="int8",
        snr_db=snr_db,
        cosine=1.0,
        input_snr_db=input_snr_db,
        added_snr_db=added_snr_db,
    )


@pytest.mark.parametrize(
    ("noise", "signal", "expected"),
    [
        (1.0, 100.0, 20.0),
        (2.0, 1.0, -3.0103),
        (0.0, 0.0, HIGHEST_DB),
        (1.0, 0.0, LOWEST_DB),
        (float("inf"), 1.0, LOWEST_DB),
        (1e-300, 1.0, HIGHEST_DB),
    ],
)
def test_decibels_are_ten_times_the_logarithm_between_their_two_ends(noise, signal, expected):
    assert decibels(noise, signal) == pytest.approx(expected, abs=1e-4)


def test_noise_is_got_back_from_decibels():
    assert noise_ratio(decibels(3.0, 40.0)) == pytest.approx(3 / 40)
    assert noise_ratio(HIGHEST_DB) == 0


@pytest.mark.parametrize(
    ("snr_db", "input_snr_db", "added_snr_db", "expected"),
    [
        (3.0, 40.0, 3.0, True),
        (14.0, 40.0, 14.0, True),
        (16.0, 40.0, 16.0, False),  # a 4-bit layer as it should be
        (9.0, 12.0, 12.0, False),  # most of it came in
        (2.0, 8.5, 3.0, True),
    ],
)
def test_a_layer_goes_wrong_where_the_error_jumps(snr_db, input_snr_db, added_snr_db, expected):
    assert layer(snr_db, input_snr_db, added_snr_db).goes_wrong is expected


def test_a_result_is_good_only_without_a_wrong_layer_and_with_near_outputs():
    def result(first_wrong, output_db):
        return DebugResult(
            bundle_id="0",
            float_source="the cache",
            matched_by="name",
            samples=1,
            layers=(layer(3.0, 40.0, 3.0),),
            outputs=(OutputError(name="y", snr_db=output_db, cosine=1.0),),
            compared_layers=1,
            all_layers=1,
            first_wrong=first_wrong,
        )

    assert result(None, 25.0).is_good
    assert not result(None, 15.0).is_good
    assert not result(0, 25.0).is_good
    assert result(0, 25.0).wrong.layer == "stem"
