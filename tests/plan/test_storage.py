"""What a target cannot store is refused by name, with what it can."""

import pytest

from edgekit.catalog import load_target
from edgekit.core.errors import StepError
from edgekit.core.mixed import Mixed
from edgekit.core.strategy import Override, Quantize
from edgekit.plan.storage import check_stored

INT4_HEAD = Override(pattern="head", precision="int4")
WHERE = "phone: step 'quantize'"


def check(target, precision, activations="none", family="laptop", **more):
    settings = Quantize(precision=precision, activations=activations, **more)
    check_stored(settings, load_target(target), WHERE, family=family)


@pytest.mark.parametrize("precision", ["int8", "int4", "fp16", "bf16"])
def test_both_targets_store_integers_and_halves(precision):
    check("litert", precision)
    check("onnx", precision)


@pytest.mark.parametrize("precision", ["fp8_e4m3", "fp8_e5m2", "nf4"])
def test_litert_refuses_what_it_cannot_compute_with(precision):
    check("onnx", precision)
    wanted = f"{WHERE}: target litert cannot store {precision}; it can: int8, int4, fp16, bf16"
    with pytest.raises(StepError) as refused:
        check("litert", precision)
    assert str(refused.value) == wanted


def test_a_layer_that_the_target_cannot_store_is_refused_by_its_pattern():
    overrides = (Override(pattern="head", precision="nf4"),)
    check("onnx", "int8", "static", overrides=overrides)
    with pytest.raises(StepError, match="pattern 'head': target litert cannot store nf4; it can"):
        check("litert", "int8", "static", overrides=overrides)


@pytest.mark.parametrize("activations", ["static", "dynamic"])
@pytest.mark.parametrize("precision", ["bf16", "fp8_e4m3", "fp8_e5m2", "nf4"])
def test_small_floats_go_without_integer_activations(precision, activations):
    with pytest.raises(StepError, match=f"{precision} weights are stored alone"):
        check("onnx", precision, activations)


def test_activations_of_16_bits_go_with_static_int8():
    for target in ("litert", "onnx"):
        check(target, "int8", "static", activation_bits=16)
    wrong = (
        ("int8", "dynamic", {}),
        ("int4", "static", {}),
        ("fp16", "none", {}),
        ("int8", "static", {"overrides": (Override(pattern="a", precision="int4"),)}),
        ("int8", "static", {"mixed": Mixed()}),
    )
    for precision, activations, more in wrong:
        with pytest.raises(StepError, match="activation_bits 16 goes with int8 weights and static"):
            check("onnx", precision, activations, activation_bits=16, **more)


def test_blocks_are_of_int4_and_nf4():
    check("onnx", "nf4", block_size=32)
    with pytest.raises(StepError, match="block_size 48 is not allowed; use 0"):
        check("onnx", "nf4", block_size=48)
    for precision in ("fp8_e4m3", "fp16", "int8"):
        with pytest.raises(StepError, match=f"{precision} has none: set it to 0"):
            check("onnx", precision, block_size=32)
    check("onnx", "int8", "dynamic", block_size=32, overrides=(INT4_HEAD,))
    check("onnx", "int8", "dynamic", block_size=32, mixed=Mixed())


def test_litert_has_no_blocks_beside_static_activations():
    check("onnx", "int4", "static", block_size=32)
    check("litert", "int4", "dynamic", block_size=32)
    check("litert", "int4", "static")
    with pytest.raises(StepError, match=r"block_size 32 beside static activations: .* to 0"):
        check("litert", "int4", "static", block_size=32)


@pytest.mark.parametrize("setting", ["is_integer_only", "is_unsigned"])
def test_what_static_activations_alone_read_is_refused_beside_others(setting):
    check("onnx", "int8", "static", **{setting: True})
    for precision, activations in (("int8", "dynamic"), ("int4", "none"), ("fp16", "none")):
        with pytest.raises(StepError, match=f"{setting} is of static activations, and these are"):
            check("onnx", precision, activations, **{setting: True})


def test_a_phone_that_would_load_them_as_floats_gets_no_small_floats():
    # ONNX Runtime folds the constants of an .ort file: 244 kB where the .onnx had 35 kB.
    overrides = (Override(pattern="head", precision="bf16"),)
    for precision, more in (("nf4", {}), ("int8", {"overrides": overrides})):
        check("onnx", precision, family="edge-server", **more)
        with pytest.raises(
            StepError, match=r"an \.ort file, which holds (nf4|bf16) weights widened"
        ):
            check("onnx", precision, family="phone", **more)
    check("litert", "bf16", family="phone")
