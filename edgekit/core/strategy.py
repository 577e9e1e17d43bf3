"""Compression strategies: the ordered steps that a profile asks for, and what became of each.

Settings are plain values. ``Step`` is what a profile writes; ``PlannedStep`` (in ``planned``) is
what the plan made of it for one model on one target: run it with these settings, or skip it, with
a reason.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal

from edgekit.core.calibration import Calibration
from edgekit.core.mixed import Mixed
from edgekit.core.planned import PlannedStep, Strategy
from edgekit.core.precision import LayerPrecision, Precision

__all__ = [
    "CONDITIONS",
    "Activations",
    "ActsOn",
    "LayerPrecision",
    "Mixed",
    "Override",
    "PlannedStep",
    "Precision",
    "Quantize",
    "Step",
    "StepSpec",
    "Strategy",
]

Activations = Literal["static", "dynamic", "none"]

# What a step may wait for. Of the workload, with its field; and of the build as it is planned.
WORKLOAD_CONDITIONS = {
    "training data": "training",
    "unlabelled data": "unlabelled",
    "student": "student",
    "selection data": "selection",
}
ONE_INPUT_SCALE, ONE_OUTPUT_SCALE = "one scale for inputs", "one scale for outputs"
BUILD_CONDITIONS = (ONE_INPUT_SCALE, ONE_OUTPUT_SCALE)
CONDITIONS = (*WORKLOAD_CONDITIONS, *BUILD_CONDITIONS)


class ActsOn(StrEnum):
    """What a step takes and gives back."""

    MODULE = "module"
    GRAPH = "graph"
    CHECKPOINT = "checkpoint"


@dataclass(frozen=True, slots=True, kw_only=True)
class Override:
    """Other settings for the layers whose module path (or tensor name) matches ``pattern``.

    ``pattern`` is a regular expression that must match somewhere. ``precision`` "float" leaves
    the layer as it is.
    """

    pattern: str
    precision: LayerPrecision
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantize:
    """Quantization of an exported graph.

    precision: of the weights. activations: "static" (calibrated integers), "dynamic" (integers
    scaled at run time) or "none" (weights only). is_unsigned: activations are stored as unsigned
    integers (what x86 wants). is_range_reduced: INT8 weights are such that x86 without VNNI
    saturates no product. block_size: columns that share a scale in INT4 matrices, 0 is per channel;
    weights that share one in NF4, in the order in which they lie, 0 is 64.
    keep_first_last_int8: in INT4, the first and the last layer with weights stay at 8 bits.
    is_integer_only: static integers between the layers as well, even where floats run faster there
    (what a microcontroller needs). is_per_tensor: one scale for all weights of a layer, in INT8, in
    place of one for each output channel (what some accelerators need). mixed: precisions of layers
    are still to be solved for, under a budget; ``overrides`` have the outcome, and then it is None.
    calibration: how ranges of static activations are found. has_symmetric_activations: static
    ranges reach as far below zero as above it (what some accelerators need). activation_bits: of
    static activations; 16 goes with INT8 weights.
    """

    precision: Precision
    activations: Activations
    is_unsigned: bool = False
    is_range_reduced: bool = False
    block_size: int = 0
    keep_first_last_int8: bool = True
    is_integer_only: bool = False
    is_per_tensor: bool = False
    mixed: Mixed | None = None
    calibration: Calibration = field(default_factory=Calibration)
    has_symmetric_activations: bool = False
    activation_bits: Literal[8, 16] = 8
    overrides: tuple[Override, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class StepSpec:
    """What an installed step is: registered under its name in the entry points ``edgekit.steps``.

    handler: ``package.module:function``, imported only when the step runs. settings: the dotted
    name of the dataclass of its settings. needs: conditions that must hold, as in ``when``.
    """

    name: str
    acts_on: ActsOn
    handler: str
    settings: str
    summary: str
    needs: tuple[str, ...] = ()
    is_training: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One step as a profile asks for it.

    when: "" for always, else one of CONDITIONS: of the workload ("training data", "student", ...),
    or of the build as it is planned: a transformer in INT8 whose layers have one scale for all of
    their inputs, or of their outputs.
    is_required: a step that cannot run fails the build; a conditional one is skipped and named.
    """

    name: str
    is_required: bool = False
    when: str = ""
    reason: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
