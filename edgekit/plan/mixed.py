"""Which layer gets which precision: the least summed error within budgets, as an integer programme.

One binary variable a layer and precision, one of them chosen for each layer; the objective is the
sum of output errors, every budget is a row. Solved to optimality by HiGHS (Huangfu & Hall 2018,
doi:10.1007/s12532-017-0130-5) through scipy. That errors of layers add up is an assumption:
whoever uses a plan measures it.
Source: the formulation is that of Yao et al. 2021, arXiv:2011.10680 (HAWQ-V3), section 3.4.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from edgekit.core.errors import BudgetError, MissingDependencyError
from edgekit.core.mixed import WIDTHS
from edgekit.core.sensitivity import LayerSensitivity
from edgekit.core.units import format_quantity

WEIGHT_BYTES, FILE_BYTES, TIME = "weight bytes", "file bytes", "latency ratio"
_FLOAT_BYTES = 4
# HiGHS lets a row be off by this share of its bound; a plan is held to its bounds afterwards.
_TIGHTER = 1e-6
_TRIES = 3

Plan = dict[str, "Choice"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """One layer at one precision.

    form: its name among the costs. file_bytes: with its share of what the file takes beside the
    weights. time: share of the whole float model's.
    """

    precision: str
    form: str
    error: float
    weight_bytes: int
    file_bytes: float = 0.0
    time: float = 0.0

    def use(self, budget: str) -> float:
        """What it takes of a budget."""
        uses = {WEIGHT_BYTES: self.weight_bytes, FILE_BYTES: self.file_bytes, TIME: self.time}
        return float(uses[budget])


def offers(
    layers: Sequence[LayerSensitivity],
    candidates: Sequence[str],
    *,
    block_size: int = 0,
    times: Mapping[str, float] | None = None,
) -> dict[str, tuple[Choice, ...]]:
    """What each layer can have, from the fewest bits to the most.

    block_size: of the quantize step; a matrix whose columns are no such blocks has a scale for each
    channel. times: by precision, measured times of the whole model over float's; a layer has the
    share of its multiply-accumulates.
    """
    macs = sum(layer.macs for layer in layers) or 1
    ratios = {"float": 1.0, **(times or {})}
    return {
        layer.path: tuple(
            _choice(layer, precision, block_size, ratios.get(precision, 0.0) * layer.macs / macs)
            for precision in sorted(candidates, key=WIDTHS.__getitem__)
            if precision == "float" or _form(layer, precision, block_size)
        )
        for layer in layers
    }


def _form(layer: LayerSensitivity, precision: str, block_size: int) -> str:
    """The form that a layer has at a precision; "" where it can have none."""
    in_blocks = f"{precision}/{block_size}"
    if in_blocks in layer.costs:
        return in_blocks
    return precision if precision in layer.costs else ""


def _choice(layer: LayerSensitivity, precision: str, block_size: int, time: float) -> Choice:
    if precision == "float":
        size = _FLOAT_BYTES * layer.parameters
        return Choice(precision=precision, form=precision, error=0, weight_bytes=size, time=time)
    form = _form(layer, precision, block_size)
    cost = layer.costs[form]
    return Choice(
        precision=precision, form=form, error=cost.error, weight_bytes=cost.bytes, time=time
    )


def with_files(
    given: Mapping[str, Sequence[Choice]], beside: Mapping[str, float]
) -> dict[str, tuple[Choice, ...]]:
    """The same with bytes of the file.

    beside: by precision, what it takes beside the weights with all layers at that precision; at any
    other precision it is taken to be as at the first.
    """
    other = next(iter(beside.values()))
    return {
        path: tuple(
            replace(
                item,
                file_bytes=item.weight_bytes + beside.get(item.precision, other) / len(given),
            )
            for item in choices
        )
        for path, choices in given.items()
    }


def uniform(given: Mapping[str, Sequence[Choice]], precision: str) -> Plan:
    """Every layer at one precision; where it cannot have that, at the next wider one."""
    width = WIDTHS[precision]
    return {
        path: next((item for item in choices if WIDTHS[item.precision] >= width), choices[-1])
        for path, choices in given.items()
    }


def used(plan: Mapping[str, Choice], budget: str) -> float:
    """What a plan takes of a budget."""
    return sum(choice.use(budget) for choice in plan.values())


def is_within(plan: Mapping[str, Choice], budgets: Mapping[str, float]) -> bool:
    """Whether a plan keeps every budget."""
    return all(used(plan, name) <= bound for name, bound in budgets.items())


def predicted_error(plan: Mapping[str, Choice]) -> float:
    """The sum of the layers' own errors."""
    return sum(choice.error for choice in plan.values())


def best_plan(
    given: Mapping[str, Sequence[Choice]], budgets: Mapping[str, float], where: str
) -> Plan:
    """The plan of the least summed error that keeps every budget.

    Raises: BudgetError for budgets that no plan keeps, with the least that is possible;
    MissingDependencyError without scipy.
    """
    _check_possible(given, budgets, where)
    bounds = dict(budgets)
    for _ in range(_TRIES):
        plan = _solved(given, bounds)
        if plan is None:
            break
        if is_within(plan, budgets):
            return plan
        bounds = {name: bound * (1 - _TIGHTER) for name, bound in bounds.items()}
    stated = ", ".join(f"{name} {bound:g}" for name, bound in budgets.items())
    raise BudgetError(
        f"{where}: each budget can be met by itself, and all together ({stated}) by no plan; raise "
        "one of them, or give more candidates"
    )


def _check_possible(
    given: Mapping[str, Sequence[Choice]], budgets: Mapping[str, float], where: str
) -> None:
    for name, bound in budgets.items():
        least = sum(min(item.use(name) for item in choices) for choices in given.values())
        if least > bound:
            unit = "ratio" if name == TIME else "bytes"
            raise BudgetError(
                f"{where}: at most {_said(bound, unit)} for {name} is asked, and the least that "
                f"these candidates can take is {_said(least, unit)}; raise the budget, give a "
                "narrower candidate, or make the model smaller"
            )


def _said(value: float, unit: str) -> str:
    return f"{int(value):,} bytes" if unit == "bytes" else format_quantity(value, unit)


def _solved(given: Mapping[str, Sequence[Choice]], bounds: Mapping[str, float]) -> Plan | None:
    """The optimum, None where the rows cannot be met."""
    scipy = _scipy()
    import numpy as np  # noqa: PLC0415 -- beside scipy, which only this function needs

    flat = [(path, choice) for path, choices in given.items() for choice in choices]
    rows = {path: number for number, path in enumerate(given)}
    one_each = np.zeros((len(rows), len(flat)))
    for column, (path, _) in enumerate(flat):
        one_each[rows[path], column] = 1
    constraints = [scipy.LinearConstraint(one_each, 1, 1)]
    for name, bound in bounds.items():
        uses = np.array([[choice.use(name) for _, choice in flat]])
        # As shares of the bound, or its tolerance would mean something else for every unit.
        scale = bound or 1.0
        constraints.append(scipy.LinearConstraint(uses / scale, -np.inf, bound / scale))
    errors = np.array([choice.error for _, choice in flat])
    found = scipy.milp(
        errors / (errors.max() or 1.0),
        integrality=np.ones(len(flat)),
        bounds=scipy.Bounds(0, 1),
        constraints=constraints,
        options={"mip_rel_gap": 0.0},
    )
    if found.x is None:
        return None
    return {
        path: choice for (path, choice), taken in zip(flat, found.x, strict=True) if taken > 0.5
    }


def _scipy() -> Any:
    try:
        from scipy import optimize  # noqa: PLC0415 -- only mixed precision needs it
    except ImportError as missing:
        raise MissingDependencyError(
            f"mixed precision solves an integer programme with scipy, which cannot be imported "
            f"({missing}): pip install 'edgekit[compress]'"
        ) from missing
    return optimize


def layer_pattern(layer: LayerSensitivity) -> str:
    """The regular expression of a layer's module path, as overrides match it."""
    paths = [re.escape(path) for path in (layer.path, *layer.others)]
    inside = paths[0] if len(paths) == 1 else f"({'|'.join(paths)})"
    # Training with rounded weights matches the name of the parameter.
    return rf"^{inside}(\.weight)?$"
