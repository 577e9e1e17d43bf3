"""A distillation in a process of its own, for the test that kills it.

Projections and exits are trained along, an earlier self follows, samples without labels are mixed
in, inputs are made, pictures are augmented: all that must come back after a kill.
"""

import sys
from pathlib import Path

import torch

from edgekit.compress.bench import StepResult
from edgekit.compress.distillation.distil import distil
from edgekit.compress.training import pace, training_run
from edgekit.compress.training.augment import make_augment
from edgekit.core.progress import Event, Listener, Reporter, ignore
from edgekit.core.steps import Distil, Train
from edgekit.data.dataset import open_dataset
from tests.compress.benches import Digits, TinyCnn, bench_of, contract, seeded

TRAIN = Train(epochs=3, batch_size=100, learning_rate=1e-2, ema_decay=0.9)
SHARED = {
    "feature_weight": 0.5,
    "attention_weight": 0.5,
    "relation_weight": 0.5,
    "self_weight": 0.5,
    "pseudo_label_weight": 0.5,
    "confidence": 0.3,
    "synthetic_samples": 16,
    "synthetic_steps": 3,
}


def run(data: Path, out: Path, self_from: str, listener: Listener = ignore) -> StepResult:
    """Distil to the end."""
    parts = {name: open_dataset(data / name) for name in ("training", "calibration", "selection")}
    teacher = seeded(TinyCnn, 1)
    teacher.load_state_dict(torch.load(data / "teacher.pt"))
    bench = bench_of(
        seeded(TinyCnn),
        Digits(**parts),
        out / "checkpoints",
        teacher=teacher,
        student=lambda: TinyCnn(6),
        training=open_dataset(data / "calibration"),
        unlabelled=open_dataset(data / "selection"),
        augment=make_augment("flip, noise:0.01", contract()),
    )
    settings = Distil(**SHARED, self_from=self_from, train=TRAIN)
    return distil(settings, bench, Reporter(stage="distil", listener=listener))


def say(event: Event) -> None:
    """A line for each event."""
    print(event.kind, event.message, flush=True)


if __name__ == "__main__":
    training_run.CHECKPOINT_SECONDS = 0.0
    pace.INTERVAL_SECONDS = 0.0
    torch.set_num_threads(int(sys.argv[4]))
    result = run(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], say)
    torch.save(result.model.state_dict(), Path(sys.argv[2]) / "student.pt")
