"""How fast a finished bundle is on this machine, alone or against another one."""

import time
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import edgekit.runtime
from edgekit.bundle.manifest import Host
from edgekit.bundle.verify import VerifiedBundle, verify_bundle
from edgekit.core.figure import Figure, exact
from edgekit.core.progress import Listener, Reporter, ignore
from edgekit.measure.host import describe_host
from edgekit.measure.latency import MINIMUM_PAIRS, interleave, latency_figures
from edgekit.runtime.golden import decode_npy

NANOSECONDS_PER_MS = 1e6


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchResult:
    """Times of a bundle on this machine. against: the other bundle's id, "" where it ran alone."""

    bundle_id: str
    against: str
    host: Host
    figures: tuple[Figure, ...]


def bench(
    bundle: Path,
    *,
    against: Path | None = None,
    threads: int = 1,
    pairs: int = MINIMUM_PAIRS,
    listener: Listener = ignore,
) -> BenchResult:
    """Time a bundle's session on its golden inputs; with ``against``, the two take turns.

    Figures: ``open_ms`` (verifying and loading), ``latency_ms``; with ``against`` also
    ``latency_against_ms`` and ``latency_ratio``, the bundle's time over the other one's.
    Raises: BundleError for a bundle that is not whole.
    """
    reporter = Reporter(stage="bench", listener=listener)
    with ExitStack() as stack:
        started = time.perf_counter_ns()
        session = stack.enter_context(edgekit.runtime.open(bundle, threads=threads))
        open_ms = (time.perf_counter_ns() - started) / NANOSECONDS_PER_MS
        for note in session.notes:
            reporter.note(note)
        inputs, other, other_inputs = _golden_batch(verify_bundle(bundle)), session, None
        if against is not None:
            other = stack.enter_context(edgekit.runtime.open(against, threads=threads))
            other_inputs = _golden_batch(verify_bundle(against))
        times = interleave(
            lambda: other.run(inputs if other_inputs is None else other_inputs),
            lambda: session.run(inputs),
            minimum=pairs,
            maximum=pairs,
            reporter=reporter,
        )
        figures = latency_figures(times, threads=threads, batch=len(next(iter(inputs.values()))))
        return BenchResult(
            bundle_id=session.bundle_id,
            against="" if against is None else other.bundle_id,
            host=describe_host(),
            figures=(
                exact("open_ms", open_ms, "ms", "once: verifying every file, and loading"),
                *_named(figures, is_alone=against is None),
            ),
        )


def _golden_batch(bundle: VerifiedBundle) -> dict[str, NDArray[Any]]:
    """As many golden samples as the artifact takes at once, repeated where there are fewer."""
    golden = bundle.manifest.golden
    rows = max(1, bundle.manifest.components[0].artifact.batch)
    arrays = {
        name: decode_npy(bundle.read(path), where=path) for name, path in golden.inputs.items()
    }
    return {name: array[np.arange(rows) % len(array)] for name, array in arrays.items()}


def _named(figures: tuple[Figure, ...], *, is_alone: bool) -> tuple[Figure, ...]:
    """The figures as they are called here, where the reference is no float artifact."""
    if is_alone:
        return tuple(item for item in figures if item.name == "latency_ms")
    return tuple(
        replace(item, name="latency_against_ms") if item.name == "latency_float_ms" else item
        for item in figures
    )
