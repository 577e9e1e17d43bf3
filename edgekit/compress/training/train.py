"""Training, as all steps that train share it.

A training is a function of its inputs alone: the order of the samples, augmentation and dropout are
drawn from the bench's seed, the epoch and the batch. So one that was killed at any point, and is
started again, ends with the same weights, bit for bit, on the same machine (on CUDA as far as its
kernels are deterministic). Checkpoints are written after each epoch and every two minutes between.
What is drawn by other means than torch's default generator (``random``, numpy) is beyond its reach.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from edgekit.compress.bench import Bench, Objective, StepPoint
from edgekit.compress.count import count
from edgekit.compress.judge import Judge
from edgekit.compress.training.batches import Batches
from edgekit.compress.training.checkpoint import Checkpoint, fingerprint_of
from edgekit.compress.training.memory_format import channels_last
from edgekit.compress.training.optimizer import check_masks, live_batch_norms, zero_masked_
from edgekit.compress.training.rounding import Rounder, make_rounder
from edgekit.compress.training.search import rates, search, short
from edgekit.compress.training.seen_activations import round_activations
from edgekit.compress.training.training_run import Trained, TrainingRun
from edgekit.compress.training.update import Updater
from edgekit.core.codec import to_plain
from edgekit.core.errors import StepError
from edgekit.core.progress import Reporter
from edgekit.core.steps.search import Search
from edgekit.core.steps.train import Train

__all__ = ["AfterBatch", "Trained", "train"]

AfterBatch = Callable[[int], None]


def train(  # noqa: PLR0913  # what a training is about, and how it goes
    model: nn.Module,
    objective: Objective,
    bench: Bench,
    settings: Train,
    reporter: Reporter,
    *,
    masks: Mapping[str, Tensor] | None = None,
    name: str = "train",
    after_batch: AfterBatch | None = None,
    rounded: nn.Module | None = None,
    order: str = "",
) -> Trained:
    """Train a model in place; it ends in eval mode with the best weights on the selection data.

    The weights that it began with take part; of equal ones the latest are the best. With a moving
    average it is the average that is judged and kept. masks: where weights stay, by parameter name
    (True is kept); the others are exactly zero throughout. None takes those of the bench: give an
    empty dict for a model of other weights. name: of its folder of checkpoints; two trainings of
    one step have two. after_batch: called with the number of batches done; it finds the gradients
    of all weights, and may change masks in place (they are part of a checkpoint, and end as they
    were with the best weights). rounded: the part of the model that ``settings.rounding`` is about,
    if not all of it; its weights end rounded. order: trainings of one order see the samples in the
    same order, augmented alike; it is the name where none is given. A loop of the user's
    (``bench.trainer``) takes the place of this one: its result is judged once, it keeps no average,
    and it is not resumed. Where ``settings.search`` asks for trials they come first, and are told
    among the points.
    Raises: StepError where there is nothing to train or to train on, for a loss or a gradient that
    is not finite, and for masks that are not the model's.
    """
    masks = bench.masks if masks is None else masks

    def run(chosen: Train, folder: str) -> Trained:
        return _train(
            model,
            objective,
            bench,
            chosen,
            reporter,
            masks=masks,
            name=folder,
            after_batch=after_batch,
            rounded=rounded,
            order=order or name,
        )

    if not (settings.epochs and settings.search.epochs):
        return run(settings, name)
    if bench.trainer is not None:
        reporter.note("no trials: the workload's 'trainer' has settings of its own")
        return run(replace(settings, search=Search()), name)
    model.to(bench.device)
    found = search(
        settings,
        (rates(settings, lambda old, rate: replace(old, learning_rate=rate)),),
        lambda chosen, trial: run(short(chosen), f"{name}-{trial}"),
        model=model,
        masks=masks,
        bench=bench,
        reporter=reporter,
    )
    return found.told_in(run(replace(found.settings, search=Search()), name))


def _train(  # noqa: PLR0913  # as its caller
    model: nn.Module,
    objective: Objective,
    bench: Bench,
    settings: Train,
    reporter: Reporter,
    *,
    masks: Mapping[str, Tensor],
    name: str,
    after_batch: AfterBatch | None,
    rounded: nn.Module | None,
    order: str,
) -> Trained:
    check_masks(model, masks)
    model.to(bench.device)
    kept = {key: value.to(bench.device) for key, value in masks.items()}
    if not settings.epochs:
        return _untrained(model, bench, kept, name)
    batches = Batches(bench, settings.batch_size, name=order)
    rounder = _rounder(rounded or model, model, bench, settings, reporter)
    _check_batch_norms(model, batches, name)
    facts = {**_facts(bench, settings, batches), "name": name}
    state = Checkpoint(fingerprint=fingerprint_of(facts, _tensors(model, kept)))

    def trial() -> None:
        objective(model, next(batches.epoch(0)).head(2))

    with _own_randomness(bench.device), channels_last(model, trial):
        updater = Updater(
            model,
            # Nobody but a loop itself knows when its weights should enter an average.
            settings if bench.trainer is None else replace(settings, ema_decay=0.0),
            kept,
            device=bench.device,
            steps=settings.epochs * len(batches),
            is_mixed=settings.has_mixed_precision and bench.device.type == "cuda",
            after_batch=after_batch,
            rounder=rounder,
        )
        run = TrainingRun(
            model=model,
            objective=objective,
            bench=bench,
            settings=settings,
            reporter=reporter,
            batches=batches,
            updater=updater,
            state=state,
            name=name,
        )
        trained = run.to_end()
    if rounder is None or rounder.activations is None:
        return trained
    return replace(trained, ranges=rounder.activations.told(model, bench))


def _rounder(
    part: nn.Module, model: nn.Module, bench: Bench, settings: Train, reporter: Reporter
) -> Rounder | None:
    if settings.rounding is None or settings.rounding.precision == "none":
        return None
    if bench.trainer is not None:
        raise StepError(
            "rounding: the workload has a 'trainer', whose loop cannot be shown rounded weights; "
            "take 'rounding' out of the training's settings, or the trainer out of the workload"
        )

    def call(_: nn.Module, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return bench.call(model, inputs)

    rounder = make_rounder(part, settings.rounding, call, bench.example())
    if settings.rounding.activations == "static":
        reporter.progress("ranges of activations on the calibration data")
        with rounder.showing_weights():
            rounded = round_activations(part, model, bench, settings.rounding)
        rounder = rounder.with_activations(rounded)
    reporter.note(rounder.summary)
    return rounder


def _untrained(model: nn.Module, bench: Bench, masks: Mapping[str, Tensor], name: str) -> Trained:
    zero_masked_(model, masks)
    score, size = Judge(bench).score(model), count(model, bench)
    point = StepPoint(
        name=f"{name} start",
        parameters=size.parameters,
        macs=size.macs,
        score=score,
        is_kept=True,
    )
    model.eval()
    return Trained(points=(point,), score=score, seconds=0.0)


def _facts(bench: Bench, settings: Train, batches: Batches) -> dict[str, Any]:
    """What makes a training this one and no other, beside its weights and its loss."""
    return {
        "settings": to_plain(settings),
        "seed": bench.seed,
        "training": batches.dataset.digest,
        "selection": bench.selection.digest,
        # Ranges of activations begin with what they are on these.
        "calibration": bench.calibration.digest if settings.rounding else "",
        "metric": bench.metric.name,
        "device": bench.device.type,
        "torch": torch.__version__,
        "is_user_loop": bench.trainer is not None,
    }


def _tensors(model: nn.Module, masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    named = [*model.named_parameters(), *model.named_buffers()]
    return dict(named) | {f"mask:{name}": value for name, value in masks.items()}


def _check_batch_norms(model: nn.Module, batches: Batches, name: str) -> None:
    """Refuse batches of one sample where they have a variance to give."""
    layers = live_batch_norms(model)
    if layers and batches.smallest == 1:
        raise StepError(
            f"{name}: batches of 1 sample ({batches.dataset.count} training samples, batch_size "
            f"{batches.size}) and batch norm layer '{layers[0]}', which needs 2 or more; set "
            "batch_size to 2 or more, or freeze the layer's weights (its statistics then stay)"
        )


@contextmanager
def _own_randomness(device: torch.device) -> Iterator[None]:
    """Within the block torch's generators are this training's; afterwards they are as before."""
    devices = [device] if device.type == "cuda" else []
    with (
        torch.random.fork_rng(devices=devices),
        torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True),
    ):
        yield
