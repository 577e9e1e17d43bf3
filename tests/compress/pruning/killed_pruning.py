"""A pruning in a process of its own, for the test that kills it: it says what it does."""

import sys
from pathlib import Path

from torch import nn

from edgekit.compress.bench import StepResult
from edgekit.compress.pruning.prune import prune
from edgekit.core.progress import Event, Listener, Reporter, ignore
from edgekit.core.steps import Prune, Train
from edgekit.data.dataset import open_dataset
from tests.compress.benches import Digits, TinyCnn, bench_of, seeded

SETTINGS = Prune(
    ratio=0.5,
    goal="macs",
    importance="taylor",
    iterations=3,
    round_to=2,
    recover=Train(epochs=3, batch_size=200, learning_rate=1e-2),
)


def run(data: Path, out: Path, listener: Listener = ignore) -> StepResult:
    """Prune a small CNN to the end."""
    parts = {name: open_dataset(data / name) for name in ("training", "calibration", "selection")}
    model: nn.Module = seeded(TinyCnn)
    bench = bench_of(model, Digits(**parts), out / "checkpoints")
    return prune(SETTINGS, bench, Reporter(stage="prune", listener=listener))


def say(event: Event) -> None:
    """Tell the test."""
    print(event.message, flush=True)


if __name__ == "__main__":
    run(Path(sys.argv[1]), Path(sys.argv[2]), say)
