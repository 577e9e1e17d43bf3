"""Which quantization a model gets: by what it is, and by what the device's instructions like.

Source: the measurements in docs/results.md; static min-max INT8 wrecks transformers, dynamic INT8
does nothing for convolutions in ONNX Runtime, and 4-bit depthwise weights do not exist in LiteRT.
"""

from typing import Literal

from edgekit.core.facts import ModelFacts
from edgekit.core.precision import INTEGERS, NF4_BLOCK, STORAGE_BITS, STORED_ONLY
from edgekit.core.profile import DeviceProfile
from edgekit.core.strategy import Activations, Override, Precision, Quantize
from edgekit.core.target import Target

X86_NAMES = ("x86_64", "x86-64", "amd64", "i686")
VNNI_FEATURES = {"avx512_vnni", "avx_vnni", "amx_int8"}
LINEAR_BLOCK_SIZE = 32
WIDE_BITS = 16


def choose_quantize(
    precision: Precision,
    facts: ModelFacts,
    profile: DeviceProfile,
    target: Target,
    *,
    overrides: tuple[Override, ...] = (),
    activation_bits: Literal[8, 16] = 8,
    asked: Activations | None = None,
) -> tuple[Quantize, str]:
    """Settings for one precision, and the reasons in one sentence.

    activation_bits: 16 are static, and no processor's integer dot products take them. asked: how
    activations are to be quantized, where that is stated; what follows from it follows it.
    """
    has_wide = activation_bits == WIDE_BITS
    usual, reason = _choose_activations(precision, facts, profile)
    activations = usual if asked is None else asked
    if activations != usual:
        reason = f"activations are {activations}, as asked"
    if has_wide and precision in INTEGERS:
        activations, reason = "static", "activations of 16 bits are calibrated"
    reasons = [reason]
    is_unsigned, is_reduced = _choose_range(activations, profile, target)
    is_unsigned, is_reduced = is_unsigned and not has_wide, is_reduced and not has_wide
    if is_unsigned:
        reasons.append("unsigned activations, as x86 integer dot products take them")
    if is_reduced:
        reasons.append("weights whose products do not saturate on x86 without VNNI")
    if activations == "static" and target.format == "onnx" and not is_unsigned and not has_wide:
        reasons.append(f"signed activations, as {profile.hardware.architecture.value} likes them")
    has_blocks = precision == "int4" and "static" not in (activations, usual)
    if has_blocks:
        reasons.append(f"blocks of {LINEAR_BLOCK_SIZE} columns share a scale")
    if precision == "nf4":
        reasons.append(f"blocks of {NF4_BLOCK} weights share a scale")
    settings = Quantize(
        precision=precision,
        activations=activations,
        activation_bits=activation_bits,
        is_unsigned=is_unsigned,
        is_range_reduced=is_reduced,
        block_size=NF4_BLOCK if precision == "nf4" else LINEAR_BLOCK_SIZE if has_blocks else 0,
        is_integer_only=activations == "static" and profile.family == "embedded",
        overrides=overrides,
    )
    return settings, "; ".join(reasons)


def _choose_activations(
    precision: Precision, facts: ModelFacts, profile: DeviceProfile
) -> tuple[Activations, str]:
    if precision == "fp16":
        return "none", "half-precision weights halve the bytes; the CPU computes in float"
    if precision in STORED_ONLY:
        bits = STORAGE_BITS[precision]
        return "none", f"weights are stored at {bits} bits and computed with in float"
    if profile.family == "embedded":
        return "static", "a microcontroller runs integers only, so activations are calibrated"
    if facts.family == "convnet":
        return "static", "calibrated activations: convolutions run on integers throughout"
    return "dynamic", (
        f"activations scaled at run time: static ranges wreck a {facts.family} network's accuracy"
    )


def _choose_range(
    activations: Activations, profile: DeviceProfile, target: Target
) -> tuple[bool, bool]:
    """(unsigned activations, reduced weight range): only ONNX Runtime leaves the choice."""
    is_x86 = profile.hardware.architecture.value.lower() in X86_NAMES
    if target.format != "onnx" or not is_x86 or activations == "none":
        return False, False
    has_vnni = bool(VNNI_FEATURES & set(profile.hardware.features.value))
    return activations == "static", not has_vnni


def is_for_other_processor(
    settings: Quantize | None, profile: DeviceProfile, target: Target, host_machine: str
) -> bool:
    """Whether an artifact's integers suit another processor than the host's.

    ONNX Runtime's kernels for signed and for unsigned activations differ by a factor of three on
    x86, so a host of the other kind says nothing of the device. host_machine: as ``uname -m``.
    """
    if settings is None or settings.activations != "static" or target.format != "onnx":
        return False
    is_device_x86 = profile.hardware.architecture.value.lower() in X86_NAMES
    is_host_x86 = host_machine.lower() in X86_NAMES
    is_free_choice = settings.is_unsigned == is_host_x86
    return is_device_x86 != is_host_x86 and not is_free_choice
