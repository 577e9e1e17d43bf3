"""Training with rounded weights, as the quantize step of the same strategy will round them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from edgekit.core.errors import StepError
from edgekit.core.planned import PlannedStep
from edgekit.core.target import Target

ROUND, AWQ = "round", "awq"
# Steps that put weights on the grid and train nothing.
GRID_STEPS = (ROUND, AWQ)
_TABLE = "rounding"
_INTEGERS = ("int8", "int4")
_SHARED = (
    *("precision", "block_size", "keep_first_last_int8", "is_range_reduced", "overrides"),
    "has_symmetric_activations",
)
# What these train rounded goes to the quantize step with its ranges; what comes of other steps has
# been changed since, or is one of several trainings.
_HANDS_OVER = ("train", "distil")
# Of the activations that a training can see rounded.
_SEEN_BITS = 8


def with_rounding(
    planned: Sequence[PlannedStep], target: Target, where: str
) -> tuple[PlannedStep, ...]:
    """The steps, with every "auto" rounding made what the quantize step does on the target.

    Where that stores half-precision floats there is nothing to round, and the reason says so.
    Raises: StepError where rounding has no quantize step to look at, or contradicts it.
    """
    quantize = next((step for step in planned if step.name == "quantize"), None)
    return tuple(
        _resolved(step, quantize, target, where) if step is not quantize and step.is_run else step
        for step in planned
    )


def _resolved(
    step: PlannedStep, quantize: PlannedStep | None, target: Target, where: str
) -> PlannedStep:
    asked = {table["precision"] for table in _roundings(step.settings)} - {"none"}
    if not asked:
        return step
    at = f"{where}: step '{step.name}': rounding"
    if quantize is None or not quantize.is_run:
        if "auto" in asked:
            raise StepError(
                f'{at}: precision is "auto", and the strategy has no quantize step to take it '
                'from; set it to "int8" or "int4", add a quantize step, or take rounding out'
            )
        return step
    if quantize.settings.get("mixed") is not None:
        return _pending(step, asked, at)
    precision = quantize.settings["precision"]
    other = "".join(sorted(asked - {"auto", precision}))
    if other:
        raise StepError(
            f"{at}: precision is '{other}' and the quantize step after it stores '{precision}', so "
            'that weights would be rounded twice; set both alike, or rounding to "auto"'
        )
    if precision not in _INTEGERS:
        if step.name in GRID_STEPS:
            raise StepError(
                f"{at}: the quantize step stores '{precision}', which is no grid of integers; take "
                "the step out, or quantize to int8 or int4"
            )
        reason = f"{step.reason}; weights are trained as they are: {precision} needs no rounding"
        return replace(step, reason=reason, settings=_placed(step.settings, None))
    if quantize.settings["is_per_tensor"]:
        raise StepError(
            f"{at}: the quantize step has one scale for a layer (is_per_tensor), and weights are "
            "rounded with one for each channel; take one of the two out"
        )
    taken = {name: quantize.settings[name] for name in _SHARED}
    taken["has_short_blocks"] = target.format == "onnx" and taken["block_size"] > 0
    settings = _placed(step.settings, taken, _activations(step, quantize, at))
    is_static = any(table["activations"] == "static" for table in _roundings(settings))
    what = "weights and activations" if is_static else "weights"
    reason = f"{step.reason}; {what} are seen as {precision} will hold them"
    bits = quantize.settings.get("activation_bits", _SEEN_BITS)
    if bits != _SEEN_BITS and step.name in _HANDS_OVER:
        reason += f", activations as floats: training rounds to {_SEEN_BITS} bits, not to {bits}"
    return replace(step, reason=reason, settings=settings)


def _activations(step: PlannedStep, quantize: PlannedStep, at: str) -> str:
    """What "auto" activations are: those of the quantize step, where they can be handed to it."""
    asked = {table["activations"] for table in _roundings(step.settings)}
    bits = quantize.settings.get("activation_bits", _SEEN_BITS)
    stored = quantize.settings["activations"] if bits == _SEEN_BITS else f"of {bits} bits"
    if "static" in asked and stored != "static":
        raise StepError(
            f'{at}: activations are "static", 8 bits of one range, and those of the quantize step '
            f'are {stored}; set both alike, or rounding.activations to "auto"'
        )
    if "static" in asked and step.name not in _HANDS_OVER:
        raise StepError(
            f'{at}: activations are "static", and only {" and ".join(_HANDS_OVER)} hand their '
            'ranges to the quantize step; set it to "none", and let one of these come last'
        )
    return "static" if stored == "static" and step.name in _HANDS_OVER else "none"


def _pending(step: PlannedStep, asked: set[str], at: str) -> PlannedStep:
    """The step as it is: the bits of each layer are known once mixed precision is solved for.

    One that makes another model comes before that, and trains weights as they are.
    """
    stated = "".join(sorted(asked - {"auto"}))
    if stated:
        raise StepError(
            f"{at}: precision is '{stated}', and the quantize step chooses one for each layer "
            '(precision "mixed"); set it to "auto"'
        )
    is_same = step.name in (*GRID_STEPS, "train") or step.settings.get("student") == "current"
    if is_same:
        return step
    why = "weights are trained as they are: mixed precision is chosen for the model that comes out"
    reason = "; ".join(filter(None, (step.reason, why)))
    return replace(step, reason=reason, settings=_placed(step.settings, None))


def is_pending(step: PlannedStep) -> bool:
    """Whether a step that runs rounds weights, and does not know yet to how many bits."""
    return step.is_run and any(table["precision"] == "auto" for table in _roundings(step.settings))


def has_rounding(step: PlannedStep) -> bool:
    """Whether a step leaves weights on the grid that will be stored."""
    is_rounded = bool(step.settings.get("is_rounded", True))
    return is_rounded and any(table["precision"] != "none" for table in _roundings(step.settings))


def trains_ranges(step: PlannedStep) -> bool:
    """Whether a step may train ranges of activations that the quantize step takes over."""
    return step.name in _HANDS_OVER and any(
        "none" not in (table["precision"], table["activations"])
        for table in _roundings(step.settings)
    )


def _roundings(settings: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The tables of rounding in settings, however deep."""
    for name, value in settings.items():
        if isinstance(value, Mapping):
            if name == _TABLE:
                yield value
            else:
                yield from _roundings(value)


def _placed(
    settings: Mapping[str, Any], table: Mapping[str, Any] | None, activations: str = "none"
) -> dict[str, Any]:
    """Settings with another table of rounding, or with none, wherever there is one that is "auto".

    A precision that was stated keeps the rest of what was stated with it. activations: what "auto"
    ones are.
    """
    placed: dict[str, Any] = {}
    for name, value in settings.items():
        if not isinstance(value, Mapping):
            placed[name] = value
        elif name != _TABLE:
            placed[name] = _placed(value, table, activations)
        elif table is not None or value["precision"] != "auto":
            is_auto = value["precision"] == "auto"
            found = {**value, **(table or {})} if is_auto else dict(value)
            if found["activations"] == "auto":
                found["activations"] = activations
            placed[name] = found
    return placed
