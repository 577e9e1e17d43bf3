"""Rounds of a step on disk: a step that was killed goes on with the first that is not there."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from edgekit.compress.bench import Bench, StepPoint
from edgekit.compress.pruning.channel_trace import named_tensors
from edgekit.compress.state import load_state, save_state
from edgekit.compress.training.checkpoint import fingerprint_of
from edgekit.core.codec import canonical_json, to_plain
from edgekit.core.progress import Reporter
from edgekit.store.files import writing_to

_FACTS = "round.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """Where a step stands after a round.

    drop: what the metric lost, as the verdict counts it; None where nobody asked. facts: plain
    figures of the round for the report.
    """

    model: nn.Module
    masks: Mapping[str, Tensor] = field(default_factory=dict)
    points: tuple[StepPoint, ...] = ()
    drop: float | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)


class Rounds:
    """The rounds of one step, in a folder that outlives a kill."""

    def __init__(self, bench: Bench, settings: Any, reporter: Reporter) -> None:
        """settings: a dataclass; rounds of other settings, data or weights are not taken up."""
        self._base, self._reporter, self._device = bench.model, reporter, bench.device
        self._folder = bench.checkpoints / "rounds"
        facts = {
            "settings": to_plain(settings),
            "seed": bench.seed,
            "metric": bench.metric.name,
            "multiple": bench.channel_multiple,
            "data": [
                None if item is None else item.digest
                for item in (bench.training, bench.calibration, bench.selection)
            ],
        }
        tensors = dict(named_tensors(bench.model)) | {
            f"mask:{name}": mask for name, mask in bench.masks.items()
        }
        self._fingerprint = fingerprint_of(facts, tensors)

    def load(self, number: int) -> Round | None:
        """A round (counted from 0) that was done before; None where it was not."""
        folder = self._folder / str(number)
        if not (folder / _FACTS).is_file():
            return None
        plain = json.loads((folder / _FACTS).read_bytes())
        if plain["fingerprint"] != self._fingerprint:
            self._reporter.note(
                f"{folder} is of a step with other settings, data or weights; this one starts anew"
            )
            return None
        state = load_state(self._base, folder)
        self._reporter.note(f"round {number + 1} was done before; its result is taken")
        return Round(
            model=state.model.to(self._device),
            masks={name: mask.to(self._device) for name, mask in state.masks.items()},
            points=tuple(StepPoint(**point) for point in plain["points"]),
            drop=plain["drop"],
            facts=plain["facts"],
        )

    def save(self, number: int, done: Round) -> None:
        """Write a round down; a kill leaves all of it or nothing.

        Raises: OutputError when the folder cannot be written; StepError for a model that cannot
        be written down.
        """
        part = self._folder / f"{number}.part"
        with writing_to(self._folder, "make room there, or choose another cache"):
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir(parents=True)
            save_state(done.model, self._base, part, done.masks)
            content = {
                "fingerprint": self._fingerprint,
                "points": [to_plain(point) for point in done.points],
                "facts": to_plain(done.facts),
            }
            # A mapping keeps None, which a dataclass would leave out.
            text = canonical_json({**content, "drop": done.drop})
            (part / _FACTS).write_bytes(text)
            shutil.rmtree(self._folder / str(number), ignore_errors=True)
            part.replace(self._folder / str(number))
