"""The same verbs as the command line, as functions with keyword arguments."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, get_args

from edgekit.core.debugging import DebugResult
from edgekit.core.errors import InputError
from edgekit.core.progress import Listener, ignore
from edgekit.core.strategy import LayerPrecision, Override
from edgekit.core.workload import Workload
from edgekit.flow import build as building
from edgekit.flow import compare as comparing
from edgekit.flow import debug as debugging
from edgekit.flow import planning
from edgekit.flow.results import (
    BuildOptions,
    BuildResult,
    Comparison,
    Effort,
    FitLine,
    PlanResult,
    SensitivityResult,
)
from edgekit.flow.sources import SourceOptions

PathLike = str | Path
PRECISIONS: tuple[str, ...] = get_args(LayerPrecision)


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
    limits: bounds by figure that replace the profile's. layers: precision (one of PRECISIONS)
    by pattern of module paths. settings: by step name, values that replace the
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


def sensitivity(  # noqa: PLR0913
    workload: PathLike | Workload,
    *,
    device: str,
    target: str | None = None,
    samples: int = 128,
    metric_layers: int = 3,
    seed: int = 0,
    refresh: bool = False,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    data: PathLike | None = None,
    labels: PathLike | None = None,
    arguments: Mapping[str, str] | None = None,
    listener: Listener = ignore,
) -> SensitivityResult:
    """What each layer of the float model costs at INT8, INT4 and FP16, its weight alone.

    samples: of the calibration data, at most. metric_layers: so many of the layers with the largest
    errors are judged by the metric too. Its ``sensitivity.by_cost()`` has those that cost most
    first. Raises: StepError for a model that is no torch.nn.Module, or has no such layers.
    """
    # The room that trains comes with it, which nothing else here needs.
    from edgekit.flow import sensing  # noqa: PLC0415

    options = BuildOptions(
        device=device,
        target=target,
        seed=seed,
        is_refreshed=refresh,
        settings=settings or {},
    )
    return sensing.sensitivity(
        workload,
        options,
        samples=samples,
        metric_layers=metric_layers,
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


def debug(
    bundle: PathLike,
    *,
    float_file: PathLike | None = None,
    samples: int | None = None,
    inputs: Iterable[Mapping[str, Any] | Any] | None = None,
    listener: Listener = ignore,
) -> DebugResult:
    """The float model and a bundle's artifact, layer by layer, and the first that goes wrong.

    float_file: the float model as .tflite or .onnx; by default what the bundle was built from, out
    of the cache. samples: how many golden samples; all if left out. inputs: raw samples, as
    ``session.predict`` takes them, in place of the golden ones.
    """
    return debugging.debug(
        Path(bundle),
        float_file=None if float_file is None else Path(float_file),
        samples=samples,
        inputs=inputs,
        listener=listener,
    )


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
