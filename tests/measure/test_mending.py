"""What is said to mend a layer follows from what was measured of it."""

from dataclasses import replace

import numpy as np
import pytest

from edgekit.core.debugging import LayerError, OutputError, decibels
from edgekit.graph.model import Operator, TensorInfo, TensorQuantization
from edgekit.graph.weights import WeightLayer
from edgekit.measure.debug import Compared, Comparison
from edgekit.measure.layer_points import Point
from edgekit.measure.layer_sums import ChannelSums, LayerSums
from edgekit.measure.layer_weights import WeightNoise
from edgekit.measure.mending import Mender, find_wrong

OPERATOR = Operator(index=0, name="FULLY_CONNECTED", inputs=(), outputs=(1,))
WEIGHT = WeightLayer(
    subgraph=0,
    operator=OPERATOR,
    slot=1,
    tensor=TensorInfo(index=0, name="w", dtype="int8", shape=(4, 4)),
    kind="linear",
    shape=(4, 4),
    precision="int8",
    activations="static",
    is_integer=True,
)
SCALE = TensorQuantization(scales=np.array([0.1], np.float32), zero_points=np.array([0], np.int64))


def layer(place=0, *, added=0.1, weights=None, precision="int8", sources=(), **sums):
    """A layer whose signal has a power of 1; other sums as given."""
    held = LayerSums(signal=1.0, noise=added, count=10, dtype=np.dtype(np.int8), **sums)
    bits = replace(WEIGHT, precision=precision)
    noise = None if weights is None else decibels(weights.noise_ratio, 1.0)
    return Compared(
        place=place,
        point=Point(
            operator=OPERATOR,
            tensor=1,
            float_tensor=1,
            layers=() if weights is None else (bits,),
            quantization=SCALE,
            sources=sources,
        ),
        sums=held,
        error=LayerError(
            operator="FULLY_CONNECTED",
            layer="blocks.0.up",
            tensor="t",
            weights="" if weights is None else precision,
            snr_db=decibels(added, 1.0),
            cosine=1.0,
            input_snr_db=40.0,
            added_snr_db=decibels(added, 1.0),
            outside_share=0.2,
            weight_snr_db=noise,
        ),
        weights=weights,
    )


def weights(noise_ratio, scales=4, spread=1.0):
    return WeightNoise(noise_ratio=noise_ratio, scales=scales, spread=spread)


def mends(*layers, place=0, **settings):
    return Mender(layers=layers, settings=settings).mends(place)


def test_four_bit_weights_want_rounding_blocks_or_more_bits():
    [mend] = mends(layer(weights=weights(0.08), precision="int4"))
    assert "int4 weights are 11.0 dB" in mend.evidence
    assert "step 'round'" in mend.remedy
    assert "--set quantize.block_size=32" in mend.remedy
    assert r"--layer '^blocks\.0\.up$=int8'" in mend.remedy
    [mend] = mends(layer(weights=weights(0.08), precision="int4"), block_size=32)
    assert "block_size" not in mend.remedy


def test_one_scale_for_uneven_channels_wants_one_a_channel_or_equalize():
    [mend] = mends(layer(weights=weights(0.09, scales=1, spread=200.0)))
    assert "200 times apart" in mend.evidence
    assert "--set quantize.is_per_tensor=false" in mend.remedy
    assert "'equalize'" in mend.remedy


def test_clipping_wants_samples_and_min_max_where_it_is_not_used_yet():
    clipped = layer(weights=weights(1e-4), integers=10, clipping=0.09, rounding=1e-4, largest=50.0)
    [mend] = mends(clipped)
    assert "20.0% of its values lie outside the range -12.8 to 12.7" in mend.evidence
    assert "quantize.calibration.method=min_max" in mend.remedy
    [mend] = mends(clipped, calibration={"method": "min_max"})
    assert "min_max" not in mend.remedy
    assert "calibrate on more samples" in mend.remedy


def test_coarse_steps_want_outliers_cut_or_smoothed():
    [mend] = mends(layer(weights=weights(1e-4), integers=10, rounding=0.09))
    assert "steps of 0.1" in mend.evidence
    assert "quantize.calibration.method=mse" in mend.remedy
    assert "'smooth'" in mend.remedy
    [mend] = mends(layer(integers=10, rounding=0.09))
    assert "'smooth'" not in mend.remedy


def test_the_largest_cause_is_said_first():
    both = layer(weights=weights(0.04), precision="int4", integers=10, clipping=0.06)
    assert ["outside" in item.evidence for item in mends(both)] == [True, False]


def test_a_range_that_one_huge_value_sets_is_blamed_for_what_vanishes_in_it():
    mask = layer(integers=10, small=5, small_signal=5.0, largest=1e9)
    reader = layer(1, sources=(0,))
    [mend] = mends(mask, reader, place=1)
    assert "50% of what it reads from FULLY_CONNECTED 'blocks.0.up'" in mend.evidence
    assert "attention mask" in mend.remedy
    evenly = layer(integers=10, small=5, small_signal=5 * 0.03**2, largest=12.7)
    [mend] = mends(evenly, reader, place=1)
    assert "attention mask" not in mend.remedy


def uneven(place=0, *, times=50.0, lost=0.2, sources=(), **more):
    """A linear layer with one output channel so many times larger than the others."""
    largest = np.array([1.0, 1.0, 1.0, times])
    channels = ChannelSums(
        signal=largest**2, lost=lost * np.array([1.0, 1.0, 1.0, 1e-4]) * 4 / 3, largest=largest
    )
    given = layer(place, added=1e-4, weights=weights(1e-5), sources=sources, channels=channels)
    return replace(given, **more)


def reader(place, operator="QUANTIZE", *, sources):
    """What goes wrong behind it."""
    found = layer(place, added=0.1, integers=10, rounding=1e-5, sources=sources)
    point = replace(found.point, operator=replace(OPERATOR, name=operator))
    return replace(found, point=point)


def test_channels_far_apart_before_floats_want_spread():
    [mend] = mends(uneven(), reader(1, sources=(0,)), place=1)
    assert mend.evidence == (
        "the output channels of FULLY_CONNECTED 'blocks.0.up' lie 50 times apart, the largest over "
        "the median one, and one scale for all leaves 7.0 dB of each on average"
    )
    assert mend.remedy == "the step 'spread', the last on the model before quantize"


def test_spread_is_named_for_a_layer_further_up_the_worst_first():
    layers = (
        uneven(0, lost=0.1),
        reader(1, sources=(0,)),
        uneven(2, times=99.0, lost=0.3, sources=(1,)),
        reader(3, sources=(2,)),
    )
    [mend] = mends(*layers, place=3)
    assert "'blocks.0.up' (and of 1 more) lie 99 times apart" in mend.evidence


@pytest.mark.parametrize(
    "layers",
    [
        (uneven(times=7.0), reader(1, sources=(0,))),
        (uneven(lost=0.004), reader(1, sources=(0,))),
        (uneven(), reader(1, "ADD", sources=(0,))),
        (uneven(), reader(1, sources=())),
        (layer(), reader(1, sources=(0,))),
    ],
    ids=["not far apart", "a small cause", "read as integers", "not upstream", "no channels"],
)
def test_spread_is_not_named_where_it_gains_nothing(layers):
    assert not any("'spread'" in mend.remedy for mend in mends(*layers, place=1))


@pytest.mark.parametrize(("activations", "word"), [("dynamic", "'smooth'"), ("static", "=float")])
def test_an_error_without_a_cause_of_its_own_is_said_to_have_none(activations, word):
    found = layer(weights=weights(1e-4))
    point = replace(found.point, layers=(replace(WEIGHT, activations=activations),))
    [mend] = mends(replace(found, point=point))
    assert word in mend.remedy


def test_without_a_wrong_layer_the_worst_of_their_own_are_named():
    found = tuple(
        layer(place, added=0.02, weights=weights(noise), precision="int4")
        for place, noise in enumerate((0.001, 0.015, 0.003, 0.012))
    )
    output = OutputError(name="y", snr_db=9.0, cosine=0.9)
    comparison = Comparison(layers=found, outputs=(output,), faults=(), golden_difference={})
    finding = find_wrong(comparison, {})
    assert finding.first_wrong is None
    assert finding.largest == (1, 3, 2)
    assert "step 'round'" in finding.mends[0].remedy
    good = replace(comparison, outputs=(replace(output, snr_db=21.0),))
    assert find_wrong(good, {}).mends == ()
