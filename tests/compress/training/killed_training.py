"""A training in a process of its own, for the tests that kill it.

It writes a line after every batch, keeps a checkpoint after each, and writes the weights at the
end. The model has batch norm and dropout, the data are augmented, weights are masked and averaged:
all that a checkpoint must hold.
"""

import sys
from pathlib import Path

import torch
from torch import Tensor, nn

from edgekit.compress.training import pace, training_run
from edgekit.compress.training.augment import make_augment
from edgekit.compress.training.objective import label_objective
from edgekit.compress.training.train import train
from edgekit.core.progress import Event, Listener, Reporter, ignore
from edgekit.core.steps import Train
from edgekit.data.dataset import open_dataset
from tests.compress.benches import Digits, TinyCnn, bench_of, contract, seeded

SETTINGS = Train(epochs=3, batch_size=200, learning_rate=1e-2, ema_decay=0.9, clip_norm=0.5)


class Dropping(TinyCnn):
    """The small CNN with dropout before its classifier."""

    def __init__(self) -> None:
        super().__init__(8)
        self.classifier = nn.Sequential(nn.Dropout(0.2), self.classifier)


def masks_of(model: nn.Module) -> dict[str, Tensor]:
    """Half of the weights of one layer."""
    weight = model.get_parameter("first.weight")
    draws = torch.Generator().manual_seed(5)
    return {"first.weight": torch.rand(weight.shape, generator=draws) < 0.5}


def run(data: Path, out: Path, optimizer: str, listener: Listener = ignore) -> nn.Module:
    """Train to the end; the model."""
    parts = {name: open_dataset(data / name) for name in ("training", "calibration", "selection")}
    model = seeded(Dropping)
    bench = bench_of(
        model,
        Digits(**parts),
        out / "checkpoints",
        augment=make_augment("flip, noise:0.01", contract()),
    )

    settings = Train(
        **{name: getattr(SETTINGS, name) for name in SETTINGS.__slots__} | {"optimizer": optimizer}
    )
    reporter = Reporter(stage="train", listener=listener)
    train(model, label_objective(bench), bench, settings, reporter, masks=masks_of(model))
    return model


def say(event: Event) -> None:
    """A line for each event."""
    print(event.kind, event.message, flush=True)


if __name__ == "__main__":
    training_run.CHECKPOINT_SECONDS = 0.0
    pace.INTERVAL_SECONDS = 0.0
    torch.set_num_threads(int(sys.argv[4]))
    trained = run(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], say)
    torch.save(trained.state_dict(), Path(sys.argv[2]) / "trained.pt")
