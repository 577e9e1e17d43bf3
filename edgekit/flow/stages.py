"""Runs the stages of a build, each only if nothing like it has been made before.

A stage's key is the digest of all that decides its result: handler and settings, digests of the
inputs, seed, the code of edgekit and of the handler's own package, and the versions of what the
target pins. What a build says aloud while a stage runs is kept with the result and said again
when the result is used again.
"""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

import edgekit
from edgekit.core.codec import canonical_json, digest_of, from_plain
from edgekit.core.errors import Interrupted
from edgekit.core.progress import Event, Listener, Reporter
from edgekit.core.stage import StageRequest, resolve_handler
from edgekit.flow.borrow import package_sources, top_package
from edgekit.flow.pins import environment_digest
from edgekit.flow.toolchain import UsableToolchain
from edgekit.flow.worker import run_in_worker
from edgekit.store import Store, StoredResult, file_digest
from edgekit.store.record import plain_values

Place = Literal["here", "process"]


# A stage that needs what cannot be sent, the user's own model and functions: it gets the empty
# folder to write into, the reporter and a folder for checkpoints, which outlives a kill.
LiveHandler = Callable[[Path, Reporter, Path], Mapping[str, Any]]
REUSED = "reused from the cache: nothing that it depends on has changed"

# These rooms print; nothing that a stage writes depends on them.
_SILENT_ROOMS = ("cli/", "report/")


@dataclass(frozen=True, slots=True, kw_only=True)
class StageOutcome:
    """A finished stage.

    folder: its files, to be read only. digest: of files and values, the input digest of later
    stages. key: of all that went in. differences: what a refreshed stage made otherwise than
    before; anything there means that it is not deterministic.
    """

    name: str
    folder: Path
    values: dict[str, Any]
    digest: str
    key: str
    is_reused: bool
    seconds: float
    differences: tuple[str, ...] = ()


def stage_key(request: StageRequest, toolchain_digest: str = "") -> str:
    """sha256 of everything that decides a stage's result; names and folders do not.

    Raises: ValueError for an input without a digest: a stale result could pass for its own.
    """
    if request.inputs.keys() != request.digests.keys():
        raise ValueError(
            f"stage '{request.name}': inputs {sorted(request.inputs)} and digests "
            f"{sorted(request.digests)} must have the same roles"
        )
    package = top_package(request.handler)
    return digest_of(
        {
            "handler": request.handler,
            "settings": request.settings,
            "inputs": request.digests,
            "seed": request.seed,
            "version": edgekit.__version__,
            "code": {name: code_digest(name) for name in {"edgekit", package}},
            "toolchain": toolchain_digest or environment_digest(),
        }
    )


@cache
def code_digest(package: str) -> str:
    """sha256 over the Python files of a package; of edgekit, without the rooms that only print."""
    ignored = _SILENT_ROOMS if package == "edgekit" else ()
    sources = package_sources(package)
    return digest_of(
        [(name, file_digest(path)) for name, path in sources if not name.startswith(ignored)]
    )


@dataclass(slots=True, kw_only=True)
class _Ear:
    """A listener that passes on, and remembers what belongs in the report."""

    listener: Listener
    heard: list[Event] = field(default_factory=list)

    def __call__(self, event: Event) -> None:
        if event.kind != "progress":
            self.heard.append(event)
        self.listener(event)


class Runner:
    """Runs stages for one build, with one store, one seed and one listener."""

    def __init__(
        self, store: Store, listener: Listener, *, seed: int = 0, refresh: bool = False
    ) -> None:
        """refresh: run every stage although its result is stored, and compare the two.

        ``outcomes`` lists what was run, in order.
        """
        self._store = store
        self._listener = listener
        self.seed = seed
        self.outcomes: list[StageOutcome] = []
        self._refresh = refresh

    def apart(self) -> "Runner":
        """A runner on the same store for what is only looked at: its notes and outcomes stay apart.

        Progress is heard as of any stage.
        """

        def listener(event: Event) -> None:
            if event.kind == "progress":
                self._listener(event)

        return Runner(self._store, listener, seed=self.seed, refresh=self._refresh)

    def run(
        self,
        request: StageRequest,
        *,
        place: Place = "here",
        toolchain: UsableToolchain | None = None,
        is_cached: bool = True,
        live: LiveHandler | None = None,
    ) -> StageOutcome:
        """The outcome of a stage, from the store or made now with this runner's seed.

        place: "process" gives the stage a process of its own; a toolchain with another Python
        always does. is_cached: False for what must be measured anew each time. live: is called
        here in place of the handler that the request names, and stands for the same work.
        Raises: what the handler raises; Interrupted on Ctrl-C.
        """
        started = time.perf_counter()
        request = _as_sent(replace(request, seed=self.seed))
        key = stage_key(request, toolchain.digest if toolchain else "")
        ear = _Ear(listener=self._listener)
        python = toolchain.python if toolchain else None

        def produce(out: Path) -> dict[str, Any]:
            if live is not None:
                reporter = Reporter(stage=request.name, listener=ear)
                return plain_values(live(out, reporter, self._store.checkpoints(key, request.name)))
            if place == "process" or python is not None:
                return run_in_worker(request, out, ear, python=python)
            reporter = Reporter(stage=request.name, listener=ear)
            return plain_values(resolve_handler(request.handler)(request, out, reporter))

        reporter = Reporter(stage=request.name, listener=self._listener)
        try:
            result = self._store.fill(
                key,
                produce,
                reporter=reporter,
                refresh=self._refresh or not is_cached,
                remarks=lambda: tuple(ear.heard),
            )
        except KeyboardInterrupt:
            raise Interrupted(f"stage '{request.name}' was stopped") from None
        changed = result.differences if is_cached else ()
        self._tell(reporter, result, changed)
        outcome = StageOutcome(
            name=request.name,
            folder=result.folder,
            values=result.values,
            digest=result.digest,
            key=key,
            is_reused=result.is_reused,
            seconds=time.perf_counter() - started,
            differences=changed,
        )
        self.outcomes.append(outcome)
        return outcome

    def _tell(self, reporter: Reporter, result: StoredResult, changed: tuple[str, ...]) -> None:
        if result.is_reused:
            reporter.note(REUSED)
            for event in result.remarks:
                self._listener(replace(event, stage=reporter.stage))
        if changed:
            reporter.warn(
                f"StageNotDeterministic: the same input gave other results than before in "
                f"{', '.join(changed)}; builds that use it cannot be reproduced"
            )


def _as_sent(request: StageRequest) -> StageRequest:
    """A request as a worker gets it, so that a handler sees the same in every place."""
    plain = json.loads(canonical_json(request))
    return from_plain(StageRequest, plain, where=f"stage '{request.name}'")
