"""The recipe follows the graph's facts and the instruction set."""

import pytest

from edgekit.plan.recipe import choose_quantize
from tests.plan.builders import facts, profile, target


@pytest.mark.parametrize(
    ("precision", "family", "activations"),
    [
        ("int8", "convnet", "static"),
        ("int8", "transformer", "dynamic"),
        ("int8", "mlp", "dynamic"),
        ("int4", "convnet", "static"),
        ("int4", "transformer", "dynamic"),
        ("fp16", "convnet", "none"),
        ("fp16", "transformer", "none"),
        ("bf16", "convnet", "none"),
        ("fp8_e4m3", "mlp", "none"),
        ("fp8_e5m2", "transformer", "none"),
        ("nf4", "convnet", "none"),
    ],
)
def test_activations_follow_the_family(precision, family, activations):
    settings, reason = choose_quantize(precision, facts(family), profile(), target())
    assert settings.activations == activations
    assert reason


def test_a_microcontroller_gets_integers_whatever_the_family():
    settings, _ = choose_quantize("int8", facts("transformer"), profile("embedded"), target())
    assert settings.activations == "static"


@pytest.mark.parametrize(
    ("architecture", "features", "is_unsigned", "is_reduced"),
    [
        ("x86_64", ("avx2",), True, True),
        ("x86_64", ("avx2", "avx_vnni"), True, False),
        ("x86_64", ("avx512_vnni",), True, False),
        ("aarch64", ("dotprod",), False, False),
        ("armv7-a", (), False, False),
    ],
)
def test_onnx_activations_follow_the_instruction_set(
    architecture, features, is_unsigned, is_reduced
):
    device = profile(architecture=architecture, features=features)
    settings, reason = choose_quantize("int8", facts(), device, target("onnx", "onnx"))
    assert (settings.is_unsigned, settings.is_range_reduced) == (is_unsigned, is_reduced)
    assert ("signed activations" in reason) is True


def test_what_follows_from_activations_follows_the_stated_ones():
    # A transformer's own would be dynamic, which have no sign to choose.
    device = profile(architecture="x86_64", features=("avx2",))
    places = (facts("transformer"), device, target("onnx", "onnx"))
    stated, reason = choose_quantize("int8", *places, asked="static")
    assert (stated.activations, stated.is_unsigned) == ("static", True)
    assert "as asked" in reason
    assert choose_quantize("int4", *places, asked="static")[0].block_size == 0


def test_litert_knows_one_range_only():
    device = profile(architecture="x86_64", features=())
    settings, _ = choose_quantize("int8", facts(), device, target())
    assert not settings.is_unsigned
    assert not settings.is_range_reduced


def test_blocks_are_for_four_bit_matrices_without_static_ranges():
    transformer, _ = choose_quantize("int4", facts("transformer"), profile(), target())
    convnet, _ = choose_quantize("int4", facts(), profile(), target())
    assert (transformer.block_size, convnet.block_size) == (32, 0)


def test_nf4_has_the_papers_blocks_and_is_said_to_be_computed_in_float():
    # Dettmers et al. 2023: 64 weights share a scale.
    settings, reason = choose_quantize("nf4", facts("transformer"), profile(), target())
    assert settings.block_size == 64
    assert "stored at 4 bits and computed with in float" in reason


def test_activations_of_16_bits_are_static_and_have_no_kernel_to_please():
    x86 = profile(architecture="x86_64", features=("avx2",))
    chosen, reason = choose_quantize(
        "int8", facts("transformer"), x86, target("onnx", "onnx"), activation_bits=16
    )
    assert (chosen.activations, chosen.activation_bits) == ("static", 16)
    assert not chosen.is_unsigned
    assert not chosen.is_range_reduced
    assert "calibrated" in reason
