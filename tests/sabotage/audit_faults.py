"""Faults in what a quantizer delivers; the audit opens the artifact and finds them."""

from edgekit.core.errors import StepError
from tests.sabotage.registry import fault

AUDIT = "did not do what the strategy asks"
INT8_ON_SERVER = {"quantize": {"precision": "int8", "activations": "static"}}


@fault("audit")
def a_layer_was_skipped(kit):
    """One convolution stays float32 in an INT8 artifact."""
    kit.refuses(
        StepError,
        rf"(?s){AUDIT}.*second: CONV_2D has float32 weights, asked for int8 weights",
        "phone",
        "skip_a_layer",
    )


@fault("audit")
def the_quantizer_did_nothing(kit):
    """The float artifact comes back and is called int8."""
    kit.refuses(
        StepError, "changed nothing: the artifact is the same, byte for byte", "phone", "do_nothing"
    )


@fault("audit")
def fp16_was_asked_and_fp32_delivered(kit):
    """The float32 artifact passes for half precision."""
    kit.refuses(
        StepError, "quantization to fp16 changed nothing: all 5 layers", "edge-server", "keep_float"
    )


@fault("audit")
def int4_was_asked_and_int8_delivered(kit):
    """Twice the bytes that the board was promised."""
    kit.refuses(
        StepError, "second: CONV_2D has int8 weights, asked for int4 weights", "embedded", "int8"
    )


@fault("audit")
def static_was_asked_and_weight_only_delivered(kit):
    """Weights are small, but every layer computes in float."""
    kit.refuses(StepError, "dequantized and multiplied as floats", "phone", "weights_only")


@fault("audit")
def static_was_asked_and_dynamic_delivered(kit):
    """Activations stay float between layers and are scaled at run time."""
    kit.refuses(
        StepError,
        "dynamic integer activations, asked for static integer activations",
        "phone",
        "dynamic",
    )


@fault("audit")
def a_weight_scale_is_twice_too_large(kit):
    """Every weight of one convolution stands for twice its value."""
    kit.refuses(
        StepError, "second: its weights differ from the float weights by 1", "phone", "double_scale"
    )


@fault("audit")
def the_scale_of_one_channel_is_wrong(kit):
    """One of sixteen output channels is off by half; the accuracy hardly shows it."""
    kit.refuses(StepError, "second: 1 of its 16 scales do not fit", "phone", "one_channel_scale")


@fault("audit")
def a_weight_scale_is_zero(kit):
    """All weights of a layer stand for nothing."""
    kit.refuses(StepError, r"second: scale 0\.0, which is not positive", "phone", "zero_scale")


@fault("audit")
def a_weight_scale_is_nan(kit):
    """One channel's scale is not a number."""
    kit.refuses(StepError, "second: scale nan", "phone", "nan_scale")


@fault("audit")
def the_weights_of_a_layer_are_zeroed(kit):
    """The integers are gone, the scales are right."""
    kit.refuses(
        StepError, "second: its weights differ from the float weights by 1", "phone", "zero_weights"
    )


@fault("audit")
def two_layers_swapped_their_weights(kit):
    """Same shapes, same dtypes, same bytes: only the values tell."""
    kit.refuses(
        StepError,
        r"(?s)second: its weights differ.*third: its weights differ",
        "phone",
        "swap_weights",
    )


@fault("audit")
def a_weight_of_the_artifact_is_nan(kit):
    """One half-precision weight became NaN on the way."""
    kit.refuses(StepError, "NaN or infinity among its weights", "edge-server", "nan_weights")


@fault("audit")
def a_layer_was_dropped(kit):
    """A whole convolution is missing; everything that is there is as asked."""
    kit.refuses(StepError, "third: 2304 weights of the float artifact", "edge-server", "drop_layer")
