"""Training with rounded weights, as the quantize step of the same strategy will round them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from edgekit.core.errors import StepError
from edgekit.core.planned import PlannedStep

ROUND = "round"
_TABLE = "rounding"
_SHARED = ("precision", "block_size", "keep_first_last_int8", "is_range_reduced", "overrides")


def with_rounding(planned: Sequence[PlannedStep], where: str) -> tuple[PlannedStep, ...]:
    """The steps, with every "auto" rounding made what the quantize step does.

    Where that stores half-precision floats there is nothing to round, and the reason says so.
    Raises: StepError where rounding has no quantize step to look at, or contradicts it.
    """
    quantize = next((step for step in planned if step.name == "quantize"), None)
    return tuple(
        _resolved(step, quantize, where) if step is not quantize and step.is_run else step
        for step in planned
    )


def _resolved(step: PlannedStep, quantize: PlannedStep | None, where: str) -> PlannedStep:
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
    precision = quantize.settings["precision"]
    other = "".join(sorted(asked - {"auto", precision}))
    if other:
        raise StepError(
            f"{at}: precision is '{other}' and the quantize step after it stores '{precision}', so "
            'that weights would be rounded twice; set both alike, or rounding to "auto"'
        )
    if precision == "fp16":
        if step.name == ROUND:
            raise StepError(
                f"{at}: the quantize step stores 'fp16', which is no grid of integers; take the "
                "step out, or quantize to int8 or int4"
            )
        reason = f"{step.reason}; weights are trained as they are: fp16 needs no rounding"
        return replace(step, reason=reason, settings=_placed(step.settings, None))
    if quantize.settings["is_per_tensor"]:
        raise StepError(
            f"{at}: the quantize step has one scale for a layer (is_per_tensor), and weights are "
            "rounded with one for each channel; take one of the two out"
        )
    taken = {name: quantize.settings[name] for name in _SHARED}
    reason = f"{step.reason}; weights are seen as {precision} will hold them"
    return replace(step, reason=reason, settings=_placed(step.settings, taken))


def has_rounding(step: PlannedStep) -> bool:
    """Whether a step leaves weights on the grid that will be stored."""
    return any(table["precision"] != "none" for table in _roundings(step.settings))


def _roundings(settings: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The tables of rounding in settings, however deep."""
    for name, value in settings.items():
        if isinstance(value, Mapping):
            if name == _TABLE:
                yield value
            else:
                yield from _roundings(value)


def _placed(settings: Mapping[str, Any], table: Mapping[str, Any] | None) -> dict[str, Any]:
    """Settings with another table of rounding, or with none, wherever there is one that is "auto".

    A precision that was stated keeps the rest of what was stated with it.
    """
    placed: dict[str, Any] = {}
    for name, value in settings.items():
        if not isinstance(value, Mapping):
            placed[name] = value
        elif name != _TABLE:
            placed[name] = _placed(value, table)
        elif value["precision"] != "auto":
            placed[name] = dict(value)
        elif table is not None:
            placed[name] = dict(table)
    return placed
