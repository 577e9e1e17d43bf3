"""What a target can store and compute with, held against the settings of the quantize step."""

from edgekit.core.calibration import Calibration
from edgekit.core.errors import StepError
from edgekit.core.precision import STORED_ONLY
from edgekit.core.strategy import Quantize
from edgekit.core.target import Target

BLOCK_SIZES = (16, 32, 64, 128, 256)
WIDE_BITS = 16
# Their weights may share scales in blocks.
IN_BLOCKS = ("int4", "nf4")
OF_STATIC = ("is_integer_only", "is_unsigned")


def check_stored(settings: Quantize, target: Target, where: str, *, family: str = "") -> None:
    """Refuse settings that the target has no storage or no computation for.

    family: of the device.
    Raises: StepError naming the setting, its value and what the target can.
    """
    _check_precisions(settings, target, where)
    if family == "phone" and target.format == "onnx":
        _check_mobile(settings, where)
    _check_activations(settings, where)
    _check_calibration(settings, where)
    has_blocks, is_stored = settings.block_size > 0, settings.activations == "none"
    if settings.is_per_tensor and (settings.precision != "int8" or has_blocks or is_stored):
        raise StepError(
            f"{where}: is_per_tensor goes with int8, static or dynamic activations and no "
            f"blocks; this is {settings.precision}, activations {settings.activations}, block_size "
            f"{settings.block_size}: leave it out, or change these"
        )
    if settings.block_size not in (0, *BLOCK_SIZES):
        *first, last = map(str, BLOCK_SIZES)
        raise StepError(
            f"{where}: block_size {settings.block_size} is not allowed; "
            f"use 0 (per channel; 64 in nf4), {', '.join(first)} or {last}"
        )
    _check_used(settings, target, where)


def _check_precisions(settings: Quantize, target: Target, where: str) -> None:
    stored = [item.precision for item in target.precisions]
    allowed = ", ".join(stored)
    if settings.precision not in stored:
        raise StepError(
            f"{where}: target {target.name} cannot store {settings.precision}; it can: {allowed}"
        )
    for override in settings.overrides:
        if override.precision not in (*stored, "float"):
            raise StepError(
                f"{where}: layer pattern '{override.pattern}': target {target.name} cannot store "
                f"{override.precision}; it can: {allowed}; or leave the layer in float"
            )


def _check_used(settings: Quantize, target: Target, where: str) -> None:
    """Refuse what nothing in these settings has a use for."""
    asked = {settings.precision, *(item.precision for item in settings.overrides)}
    if settings.block_size > 0 and settings.mixed is None and not asked.intersection(IN_BLOCKS):
        raise StepError(
            f"{where}: block_size {settings.block_size} goes with int4 and nf4; "
            f"{settings.precision} has none: set it to 0"
        )
    is_static_block = settings.block_size > 0 and settings.activations == "static"
    if is_static_block and settings.precision == "int4" and target.format == "tflite":
        raise StepError(
            f"{where}: block_size {settings.block_size} beside static activations: LiteRT "
            "multiplies blocks of weights with activations that are scaled at run time alone; set "
            'block_size to 0 (a scale for each channel), or activations = "dynamic"'
        )
    for name in OF_STATIC:
        if getattr(settings, name) and settings.activations != "static":
            raise StepError(
                f"{where}: {name} is of static activations, and these are "
                f'{settings.activations}: set activations = "static", or leave it out'
            )


def _check_mobile(settings: Quantize, where: str) -> None:
    """Phones load .ort files, which ONNX Runtime writes with its constants folded."""
    asked = (settings.precision, *(item.precision for item in settings.overrides))
    alone = next((precision for precision in asked if precision in STORED_ONLY), "")
    if alone:
        raise StepError(
            f"{where}: phones load an .ort file, which holds {alone} weights widened to float32, "
            "so that nothing would be saved; store int8, or take a device that loads the .onnx"
        )


def _check_calibration(settings: Quantize, where: str) -> None:
    is_asked = settings.calibration != Calibration() or settings.has_symmetric_activations
    if is_asked and settings.activations != "static":
        raise StepError(
            f"{where}: calibration and has_symmetric_activations are of static activations, and "
            f'these are {settings.activations}: set activations = "static", or leave them out'
        )


def _check_activations(settings: Quantize, where: str) -> None:
    precision, activations = settings.precision, settings.activations
    if precision in STORED_ONLY and activations != "none":
        raise StepError(
            f"{where}: {precision} weights are stored alone and computed with in float, and "
            f"activations are '{activations}'; set activations to none, or store int8 weights"
        )
    if settings.activation_bits != WIDE_BITS:
        return
    narrow = [item.pattern for item in settings.overrides if item.precision == "int4"]
    if precision != "int8" or activations != "static" or narrow or settings.mixed is not None:
        what = f"layer pattern '{narrow[0]}' is int4" if narrow else f"this is {precision}"
        what = "precision is mixed" if settings.mixed is not None else what
        raise StepError(
            f"{where}: activation_bits 16 goes with int8 weights and static activations; {what}, "
            f"activations {activations}: set activation_bits to 8, or change these"
        )
