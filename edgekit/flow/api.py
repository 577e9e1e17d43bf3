"""The same verbs as the command line, as functions with keyword arguments."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from edgekit.core.errors import InputError
from edgekit.core.progress import Listener, ignore
from edgekit.core.strategy import Override
from edgekit.core.workload import Workload
from edgekit.flow import build as building
from edgekit.flow import compare as comparing
from edgekit.flow import planning
from edgekit.flow.results import (
    BuildOptions,
    BuildResult,
    Comparison,
    Effort,
    FitLine,
    PlanResult,
)
from edgekit.flow.sources import SourceOptions

PathLike = str | Path
PRECISIONS = ("int8", "int4", "fp16", "float")


def build(  # noqa: PLR0913
    workload: PathLike | Workload,
    *,
    device: str,
    target: str | None = None,
    out: PathLike | None = None,
    effort: Effort = "quick",
    seed: int = 0,
    force: bool = False,
    refresh: bool = False,
    strict: bool = False,
    zip: bool = False,  # noqa: A002 -- it is what the option is called
    allow: tuple[str, ...] = (),
    require: Literal["proven", "candidate"] = "candidate",
    limits: Mapping[str, float] | None = None,
    layers: Mapping[str, str] | None = None,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    data: PathLike | None = None,
    labels: PathLike | None = None,
    arguments: Mapping[str, str] | None = None,
    listener: Listener = ignore,
) -> BuildResult:
    """Build a bundle for one device and prove it.

    workload: a Workload, a Python file (``file.py:function``) or a model file with ``data``.
    limits: bounds by figure that replace the profile's. layers: precision ("int8", "int4",
    "fp16", "float") by pattern of module paths. settings: by step name, values that replace the
    planned ones. listener: is called with progress and notes.
    Raises: BudgetError (its ``result`` has the whole table) when the verdict refuses it; other
    EdgekitErrors for what stops the build.
    """
    options = BuildOptions(
        device=device,
        target=target,
        out=None if out is None else Path(out),
        effort=effort,
        seed=seed,
        is_forced=force,
        is_refreshed=refresh,
        is_strict=strict,
        is_packed=zip,
        allow=tuple(allow),
        require=require,
        limits=limits or {},
        overrides=_overrides(layers or {}),
        settings=settings or {},
    )
    return building.build(
        workload,
        options,
        listener=listener,
        source_options=_source_options(data, labels, arguments),
    )


def plan(  # noqa: PLR0913
    workload: PathLike | Workload,
    *,
    device: str,
    target: str | None = None,
    effort: Effort = "quick",
    layers: Mapping[str, str] | None = None,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    data: PathLike | None = None,
    labels: PathLike | None = None,
    arguments: Mapping[str, str] | None = None,
    listener: Listener = ignore,
) -> PlanResult:
    """What a build would do: strategy, support of every operator, estimates. Builds nothing."""
    options = BuildOptions(
        device=device,
        target=target,
        effort=effort,
        overrides=_overrides(layers or {}),
        settings=settings or {},
    )
    return planning.plan_build(
        workload,
        options,
        listener=listener,
        source_options=_source_options(data, labels, arguments),
    )


def fit(
    workload: PathLike | Workload,
    *,
    data: PathLike | None = None,
    labels: PathLike | None = None,
    arguments: Mapping[str, str] | None = None,
    listener: Listener = ignore,
) -> tuple[FitLine, ...]:
    """Every known device against one model, from estimates alone."""
    return planning.fit(
        workload, listener=listener, source_options=_source_options(data, labels, arguments)
    )


def compare(a: PathLike, b: PathLike, *, tolerance_percent: float = 5.0) -> Comparison:
    """Two bundles, figure by figure."""
    return comparing.compare(Path(a), Path(b), tolerance_percent=tolerance_percent)


def _overrides(layers: Mapping[str, str]) -> tuple[Override, ...]:
    for pattern, precision in layers.items():
        if precision not in PRECISIONS:
            raise InputError(
                f"layer pattern '{pattern}': precision '{precision}' is not allowed; "
                f"use one of {', '.join(PRECISIONS)}"
            )
    return tuple(
        Override(pattern=pattern, precision=precision)  # type: ignore[arg-type]
        for pattern, precision in layers.items()
    )


def _source_options(
    data: PathLike | None, labels: PathLike | None, arguments: Mapping[str, str] | None
) -> SourceOptions:
    return SourceOptions(
        data=None if data is None else Path(data),
        labels=None if labels is None else Path(labels),
        arguments=arguments or {},
    )
