"""One training on its way: epochs, points, checkpoints, and the best weights so far."""

import time
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from edgekit.compress.bench import Batch, Bench, Objective, StepPoint
from edgekit.compress.count import count
from edgekit.compress.judge import Judge
from edgekit.compress.training.batches import Batches, stream_seed
from edgekit.compress.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from edgekit.compress.training.interrupt import interruptions_deferred
from edgekit.compress.training.loss_checks import check_loss
from edgekit.compress.training.optimizer import training_mode_
from edgekit.compress.training.own_loop import OwnBatches, Trainer, run_trainer
from edgekit.compress.training.pace import Pace
from edgekit.compress.training.update import NotFiniteError, Updater
from edgekit.core.codec import to_plain
from edgekit.core.errors import StepError
from edgekit.core.progress import Reporter
from edgekit.core.steps.train import Train
from edgekit.graph.ranges import TrainedRange

CHECKPOINT_SECONDS = 120.0
# An epoch whose mean loss is so many times that of the first batch, or 1 where that is less, is no
# result: where it scores best all the same, the metric cannot tell it from chance.
DIVERGED = 1000.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """What a training did.

    points: the start, trials of other settings, every epoch; the one whose weights the model has is
    kept. score: of these weights, by the metric, on the selection data. seconds: of all runs that
    it took, without the trials. ranges: of activations that were rounded, as they came to be.
    """

    points: tuple[StepPoint, ...]
    score: float
    seconds: float
    trials: int = 0
    ranges: tuple[TrainedRange, ...] = ()

    @property
    def tried(self) -> tuple[StepPoint, ...]:
        """The points of the trials."""
        return self.points[1 : 1 + self.trials]

    @property
    def epochs(self) -> int:
        """How many there were."""
        return len(self.points) - 1 - self.trials


class TrainingRun:
    """One training, from its last checkpoint to its end."""

    def __init__(  # noqa: PLR0913  # all that a training has, put together in one place
        self,
        *,
        model: nn.Module,
        objective: Objective,
        bench: Bench,
        settings: Train,
        reporter: Reporter,
        batches: Batches,
        updater: Updater,
        state: Checkpoint,
        name: str,
    ) -> None:
        self.model, self.objective, self.bench = model, objective, bench
        self.settings, self.reporter, self.name = settings, reporter, name
        self.batches, self.updater, self.state = batches, updater, state
        self.judge = Judge(bench)
        self.size = count(model, bench)
        self.folder = bench.checkpoints / name
        self.where = reporter.stage if reporter.stage == name else f"{reporter.stage}, {name}"
        self.saved_at = self.counted_at = time.monotonic()

    def to_end(self) -> Trained:
        """Train on from the last checkpoint, or from the start."""
        found = load_checkpoint(self.folder, self.state.fingerprint, self.reporter)
        if found is None:
            self._begin()
        else:
            self._resume(found)
        if not self.state.is_finished:
            self._train()
            self._finish()
        return self._leave()

    def _begin(self) -> None:
        self._judge(f"{self.name} start", loss=None)
        self.state.epoch_seconds = 0.0
        self._save()

    def _resume(self, found: Checkpoint) -> None:
        self.state = found
        if found.is_finished:
            return
        self.updater.restore(found)
        self.reporter.note(
            f"{self.where}: goes on from epoch {found.epoch + 1}, batch {found.batch + 1}, where "
            "it was stopped"
        )

    def _train(self) -> None:
        if self.bench.trainer is not None:
            self._train_by_user(self.bench.trainer)
            return
        state, size = self.state, len(self.batches)
        self.pace = Pace(self.reporter, done=self._done, total=self.settings.epochs * size)
        with interruptions_deferred() as is_interrupted:
            while state.epoch < self.settings.epochs and not self._is_stale:
                training_mode_(self.model)
                for batch in self.batches.epoch(state.epoch, start=state.batch):
                    self._one_batch(batch)
                    if is_interrupted() or self._is_due:
                        self._save()
                    if is_interrupted():
                        raise KeyboardInterrupt
                self._end_epoch()

    def _train_by_user(self, trainer: Trainer) -> None:
        """The user's loop as one epoch, however often it goes over the data."""
        device, seed = self.bench.device, self.batches.seed

        def before(done: int) -> None:
            _seed(device, stream_seed(seed, "model", done))

        def after(done: int) -> None:
            self.updater.settle(done)
            self.pace.tell(done, f"{self.name}: {done} batches done by the workload's trainer")

        def loss_of(model: nn.Module, batch: Batch) -> Tensor:
            loss = self._loss(model, batch)
            if not bool(torch.isfinite(loss)):
                raise StepError(
                    f"{self.where}: the loss is {float(loss.detach())} in the workload's trainer; "
                    "lower its learning rate, or clip its gradients"
                )
            return loss

        self.pace = Pace(self.reporter)
        training_mode_(self.model)
        batches = OwnBatches(self.batches, self.settings, before=before, after=after)
        run_trainer(trainer, self.model, batches, loss_of)
        self.updater.keep_zeros()
        self._judge(f"{self.name} own loop", loss=None)

    def _one_batch(self, batch: Batch) -> None:
        state = self.state
        _seed(self.bench.device, stream_seed(self.batches.seed, "model", self._done))
        loss = self._guarded(batch)
        if not self._done:
            state.first_loss = loss
        state.loss_sum += loss
        state.loss_batches += 1
        state.batch += 1
        self._count_time()
        self.pace.tell(
            self._done,
            f"{self.name}: epoch {state.epoch + 1} of {self.settings.epochs}, loss {loss:.4g}",
        )

    def _loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return check_loss(self.objective(model, batch), where=f"{self.where}: the loss")

    def _guarded(self, batch: Batch) -> float:
        try:
            return self.updater.step(lambda: self._loss(self.model, batch), self._done)
        except NotFiniteError as error:
            place = f", batch {self.state.batch + 1} of {len(self.batches)}"
            raise self._stopped(error, place) from error

    def _stopped(self, error: NotFiniteError, place: str = "") -> StepError:
        """What is told of a training that cannot go on. place: within the epoch."""
        state, settings = self.state, self.settings
        clip = settings.clip_norm or "0, which clips nothing"
        return StepError(
            f"{self.where}: {error} in epoch {state.epoch + 1} of {settings.epochs}{place}; "
            f"training stops, and the last good checkpoint is kept in {self.folder}. Lower "
            f"learning_rate (now {settings.learning_rate:g}) or clip_norm (now {clip}), lengthen "
            f"warmup_ratio (now {settings.warmup_ratio:g}), or look for NaN in the training data"
        )

    def _end_epoch(self) -> None:
        state = self.state
        loss = state.loss_sum / state.loss_batches
        is_better = self._judge(f"{self.name} epoch {state.epoch + 1}", loss=loss)
        is_kept = state.best_point == len(state.points) - 1
        if is_kept and loss > DIVERGED * max(abs(state.first_loss), 1.0):
            grown = NotFiniteError(
                f"the loss grew from {state.first_loss:.3g} in the first batch to {loss:.3g} on "
                "average"
            )
            raise self._stopped(grown) from grown
        state.stale_epochs = 0 if is_better else state.stale_epochs + 1
        state.epoch += 1
        state.batch, state.loss_batches = 0, 0
        state.loss_sum = state.epoch_seconds = 0.0
        self._save()

    def _judge(self, name: str, *, loss: float | None) -> bool:
        """Score the weights as they stand, and keep them where they are the best so far.

        Gives whether they are better than the best before, and not only as good.
        """
        state = self.state
        with self.updater.showing_result():
            score = self.judge.score(self.model)
            is_first = not state.points
            is_better = is_first or self.judge.is_better(score, state.best_score)
            if is_better or score == state.best_score:
                state.best = {key: value.clone() for key, value in self.updater.tensors.items()}
                state.best_masks = self.updater.copied_masks()
                state.best_score, state.best_point = score, len(state.points)
        self._count_time()
        point = StepPoint(
            name=name,
            parameters=self.size.parameters,
            macs=self.size.macs,
            score=score,
            loss=loss,
            seconds=state.epoch_seconds,
        )
        state.points.append(to_plain(point))
        return is_better

    def _finish(self) -> None:
        """A finished training needs its best weights and points alone."""
        state = self.state
        state.is_finished = True
        state.tensors, state.average, state.masks = {}, {}, {}
        state.optimizer, state.scaler = {}, {}
        save_checkpoint(self.folder, state)

    def _leave(self) -> Trained:
        self.updater.place_result(self.state.best)
        self.updater.place_masks(self.state.best_masks)
        self.updater.let_go()
        self.model.eval()
        points = tuple(
            replace(StepPoint(**plain), is_kept=index == self.state.best_point)
            for index, plain in enumerate(self.state.points)
        )
        return Trained(points=points, score=self.state.best_score, seconds=self.state.seconds)

    def _save(self) -> None:
        self.updater.record(self.state)
        save_checkpoint(self.folder, self.state)
        self.saved_at = time.monotonic()

    def _count_time(self) -> None:
        now = time.monotonic()
        self.state.seconds += now - self.counted_at
        self.state.epoch_seconds += now - self.counted_at
        self.counted_at = now

    @property
    def _done(self) -> int:
        return self.state.epoch * len(self.batches) + self.state.batch

    @property
    def _is_due(self) -> bool:
        return time.monotonic() - self.saved_at >= CHECKPOINT_SECONDS

    @property
    def _is_stale(self) -> bool:
        return 0 < self.settings.patience <= self.state.stale_epochs


def _seed(device: torch.device, seed: int) -> None:
    """Seed what dropout draws from; ``torch.manual_seed`` would cost half a millisecond."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)
