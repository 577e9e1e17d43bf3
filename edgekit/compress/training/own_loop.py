"""A training loop of the user's own in the place of edgekit's."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from edgekit.compress.bench import Batch
from edgekit.compress.training.batches import Batches
from edgekit.compress.training.faults import faults_of
from edgekit.core.errors import StepError
from edgekit.core.steps.train import Train

Trainer = Callable[..., None]
LossOf = Callable[[nn.Module, Batch], Tensor]


class OwnBatches:
    """What a user's loop iterates over: one epoch of batches at a time, as often as it likes.

    ``len()`` is the number of batches an epoch. A batch has ``inputs`` (tensors by input name) and
    ``target`` (a tensor, or None). settings: what the profile says of training, to heed or not.
    """

    def __init__(
        self,
        batches: Batches,
        settings: Train,
        *,
        before: Callable[[int], None],
        after: Callable[[int], None],
    ) -> None:
        """before, after: called around each batch with the number of batches done."""
        self.settings = settings
        self._batches, self._before, self._after = batches, before, after
        self._done = 0

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[Batch]:
        for batch in self._batches:
            self._before(self._done)
            yield batch
            self._done += 1
            self._after(self._done)


def run_trainer(trainer: Trainer, model: nn.Module, batches: OwnBatches, loss_of: LossOf) -> None:
    """Run a user's loop, which trains the model in place.

    Raises: StepError when it fails, or leaves other weights than there were, or none that is
    finite.
    """
    shapes = _shapes(model)
    with faults_of("the workload's trainer", StepError):
        trainer(model, batches, loss_of)
    if _shapes(model) != shapes:
        raise StepError(
            "the workload's trainer changed the names or shapes of the model's weights; it must "
            "train the model that it is given, in place"
        )
    for name, value in model.named_parameters():
        if not bool(torch.isfinite(value).all()):
            raise StepError(
                f"the workload's trainer left NaN or infinite weights in '{name}'; lower its "
                "learning rate, or clip its gradients"
            )


def _shapes(model: nn.Module) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in model.named_parameters()}
