"""What a workload calls its metric, resolved into one form.

A metric either scores every sample (and then differences are paired sample by sample), or has a
value only for a whole set, as torchmetrics and callables that return one number do.
"""

import copy
import math
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.core.codec import nearest
from edgekit.core.errors import WorkloadError
from edgekit.evaluate.builtin import BUILTINS, Outputs, PerSample, Scores

Array = NDArray[Any]
Scored = Iterable[tuple[Outputs, Array | None]]
Whole = Callable[[Scored], float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One metric.

    per_sample: scores of a batch, of its outputs, target and the float model's outputs; None where
    only a whole set has a value. whole: that value, where per_sample gives none. is_bounded: a
    difference is told in points of 0..1; False: in percent of the float model's value; None: in
    points if every score turns out to be 0 or 1. lowest, highest: no value lies outside, and no
    interval around one reaches there; infinite where the metric does not say. is_builtin: known by
    name.
    """

    name: str
    needs_target: bool
    is_bounded: bool | None
    higher_is_better: bool
    per_sample: PerSample
    whole: Whole | None = None
    lowest: float = -math.inf
    highest: float = math.inf
    is_builtin: bool = False


def resolve_metric(spec: Any) -> Metric:
    """The metric that a workload names or hands over.

    A string is a name ("top-1", "top-5", "cosine", "mae", "nll"), or "name:output" to pick one
    of several outputs. An object with update, compute and reset is a torchmetrics metric. A
    callable takes ``(outputs, targets)`` of a batch as numpy arrays (several outputs as a dict)
    and returns a score a sample or one number; it may carry the attributes ``higher_is_better``
    (True), ``needs_target`` (True) and ``is_bounded`` (values lie in 0..1).
    Raises: WorkloadError for anything else.
    """
    if isinstance(spec, Metric):
        return spec
    if isinstance(spec, str):
        return _by_name(spec)
    if all(callable(getattr(spec, part, None)) for part in ("update", "compute", "reset")):
        return _torchmetric(spec)
    if callable(spec):
        return _callable(spec)
    raise WorkloadError(
        f"metric: {type(spec).__name__} is none; give a name ({', '.join(BUILTINS)}), a "
        "torchmetrics metric, or a callable (outputs, targets) -> scores"
    )


def checked_scores(scores: Array, count: int, *, metric: str, where: str) -> Scores:
    """Scores as float64, when there is a finite one for every sample.

    Raises: WorkloadError otherwise, naming the metric and the batch.
    """
    if scores.shape != (count,):
        raise WorkloadError(
            f"metric {metric}: scores of shape {list(scores.shape)} for {count} samples in "
            f"{where}; return one score a sample, or one number"
        )
    found = scores.astype(np.float64)
    if not np.isfinite(found).all():
        row = int(np.argmin(np.isfinite(found)))
        raise WorkloadError(
            f"metric {metric}: {found[row]} for sample {row} of {where}; a score must be finite"
        )
    return found


def _by_name(spec: str) -> Metric:
    name, _, output = spec.partition(":")
    if name not in BUILTINS:
        raise WorkloadError(f"metric: '{name}' is not known{nearest(name, list(BUILTINS))}")
    known = BUILTINS[name]

    def per_sample(outputs: Outputs, target: Array | None, reference: Outputs) -> Scores | None:
        if output:
            outputs, reference = _only(outputs, output, spec), _only(reference, output, spec)
        return known.score(outputs, target, reference)

    return Metric(
        name=spec,
        needs_target=known.needs_target,
        is_bounded=known.is_bounded,
        higher_is_better=known.higher_is_better,
        per_sample=per_sample,
        lowest=known.lowest,
        highest=known.highest,
        is_builtin=True,
    )


def _only(outputs: Outputs, name: str, spec: str) -> Outputs:
    if name not in outputs:
        raise WorkloadError(f"metric {spec}: no output '{name}'{nearest(name, list(outputs))}")
    return {name: outputs[name]}


def _callable(function: Callable[..., Any]) -> Metric:
    name = getattr(function, "__name__", type(function).__name__)
    is_bounded = getattr(function, "is_bounded", None)

    def per_sample(outputs: Outputs, target: Array | None, _: Outputs) -> Scores | None:
        scores = _plain_array(_called(function, name, outputs, target), name)
        return None if scores.ndim == 0 else scores

    def whole(scored: Scored) -> float:
        # One number of a whole set cannot be put together from its parts: all outputs at once.
        batches = list(scored)
        outputs = {
            key: np.concatenate([batch[key] for batch, _ in batches]) for key in batches[0][0]
        }
        targets = [target for _, target in batches if target is not None]
        joined = np.concatenate(targets) if targets else None
        return _one_number(_called(function, name, outputs, joined), name)

    return Metric(
        name=name,
        needs_target=getattr(function, "needs_target", True),
        is_bounded=is_bounded,
        higher_is_better=getattr(function, "higher_is_better", True),
        per_sample=per_sample,
        whole=whole,
        lowest=0.0 if is_bounded else -math.inf,
        highest=1.0 if is_bounded else math.inf,
    )


def _torchmetric(metric: Any) -> Metric:
    name = type(metric).__name__
    if getattr(metric, "higher_is_better", None) is None:
        raise WorkloadError(
            f"metric {name} does not say whether higher is better; wrap it in a callable with the "
            "attribute higher_is_better"
        )
    # Bounds for a plot: good enough for points or percent, but some values do pass them (its cosine
    # is said to begin at 0), so no interval is cut there.
    bounds = (getattr(metric, "plot_lower_bound", None), getattr(metric, "plot_upper_bound", None))

    def whole(scored: Scored) -> float:
        # A copy: the user's own metric keeps the state it came with.
        fresh = copy.deepcopy(metric)
        fresh.reset()
        for outputs, target in scored:
            if len(outputs) != 1:
                raise WorkloadError(
                    f"metric {name}: the model has {len(outputs)} outputs; wrap the metric in a "
                    "callable that picks one"
                )
            fresh.update(*(_torch_tensor(part) for part in (*outputs.values(), target)))
        return _one_number(fresh.compute(), name)

    return Metric(
        name=name,
        needs_target=True,
        is_bounded=bounds == (0.0, 1.0),
        higher_is_better=bool(metric.higher_is_better),
        per_sample=lambda *_: None,
        whole=whole,
    )


def _torch_tensor(array: Array | None) -> Any:
    # A torchmetrics metric has brought torch along; this room never imports it.
    return sys.modules["torch"].from_numpy(np.ascontiguousarray(array))


def _called(function: Callable[..., Any], name: str, outputs: Outputs, target: Array | None) -> Any:
    try:
        return function(_given(outputs), target)
    except (Exception, SystemExit) as error:  # a user's metric may raise anything, and exit
        raise WorkloadError(f"metric {name}: it raised {type(error).__name__}: {error}") from error


def _given(outputs: Outputs) -> Any:
    """What a callable sees: the only output itself, or several by name."""
    return next(iter(outputs.values())) if len(outputs) == 1 else dict(outputs)


def _plain_array(value: Any, name: str) -> Array:
    if hasattr(value, "detach"):
        value = value.detach().cpu().numpy()
    if value is None or isinstance(value, (str, bytes)):
        # numpy would read None as NaN, and a text as the number in it.
        raise WorkloadError(
            f"metric {name}: returned {type(value).__name__}; return one score a sample, or one "
            "number"
        )
    try:
        return np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise WorkloadError(f"metric {name}: returned {type(value).__name__}: {error}") from error


def _one_number(value: Any, name: str) -> float:
    array = _plain_array(value, name)
    if array.size != 1 or not np.isfinite(array).all():
        raise WorkloadError(
            f"metric {name}: {np.array2string(array, threshold=5)} for the whole set; it must be "
            "one finite number"
        )
    return float(array.reshape(()))
