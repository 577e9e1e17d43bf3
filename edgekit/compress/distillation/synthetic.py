"""Inputs made from a teacher alone: what its batch norm layers remember of the training data.

Each batch begins as noise and is changed until the mean and variance of what enters every batch
norm layer are those that the layer keeps, and until the teacher takes each sample for the class
that was asked for. The work is bounded by the number of steps and not by a clock, so it is the same
every time; a batch that is finished is kept, and a killed search goes on with the next one.
"""

import math
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from edgekit.compress.bench import Bench
from edgekit.compress.distillation.teachers import Task
from edgekit.compress.training.batches import stream
from edgekit.compress.training.objective import scores_reader
from edgekit.compress.training.pace import Pace
from edgekit.core.contract import Image, InputContract
from edgekit.core.errors import StepError
from edgekit.core.progress import Reporter
from edgekit.data.dataset import META, TARGET, Dataset, DatasetWriter, open_dataset

BATCH_SAMPLES = 128
LEARNING_RATE = 0.1
# Shares of the loss beside the class's 1. DeepInversion's for CIFAR-10 (arXiv:1912.08795, section
# 4.1), but for a variation that is a mean over pixels and not a norm over a batch.
STATISTICS_WEIGHT = 10.0
VARIATION_WEIGHT = 0.01
# Pictures are shifted by up to this share of a side before every look: 2 of 32 pixels there.
SHIFT_SHARE = 1 / 16
WHITE_LEVEL = 255

_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistics:
    """Of what entered one batch norm layer, and what the layer keeps. Shapes: (channels,) each."""

    mean: Tensor
    variance: Tensor
    kept_mean: Tensor
    kept_variance: Tensor


def synthesize(  # a search, its size and where it goes
    bench: Bench, task: Task, samples: int, steps: int, folder: Path, reporter: Reporter
) -> tuple[Dataset, ...]:
    """So many inputs, in datasets of up to 128, classes in equal shares; finished ones are kept.

    The target of each is the class that was asked for; a model without classes gets none.
    Raises: StepError for a teacher without batch norm layers that keep statistics, and for inputs
    that are not one tensor of floats.
    """
    item = _only_input(bench)
    _require_statistics(bench.teacher)
    batches = math.ceil(samples / BATCH_SAMPLES)
    pace = Pace(reporter, total=batches * steps)
    found = []
    for number in range(batches):
        part = folder / f"part-{number:04d}"
        if not (part / META).is_file():
            draws = stream(bench.seed, "synthetic", number)
            labels = asked_labels(task, min(BATCH_SAMPLES, samples - number * BATCH_SAMPLES), draws)
            told = f"synthetic data: batch {number + 1} of {batches}"
            before = number * steps

            def tell(step: int, told: str = told, before: int = before) -> None:
                pace.tell(before + step, told)

            inputs = search(bench, task, item, labels, steps, draws, tell)
            _write(part, item.name, inputs, labels if task.has_classes else None)
        found.append(open_dataset(part))
    return tuple(found)


def search(  # what is sought, by which means
    bench: Bench,
    task: Task,
    item: InputContract,
    labels: Tensor,
    steps: int,
    draws: Generator,
    tell: Callable[[int], None] = lambda _: None,
) -> Tensor:
    """A batch of inputs of one teacher, one for each label.

    Adam, its rate falling along half a cosine; pictures stay between black and white.
    Formula: cross-entropy + 10 mean_l (||mean_l - kept|| + ||variance_l - kept||) + 0.01 variation.
    Shapes: labels (n,) -> (n, *shape of a sample).
    Source: Yin et al. 2020, arXiv:1912.08795 (DeepInversion), equations 3 and 4.
    """
    start = torch.randn((len(labels), *item.source.element_shape), generator=draws)
    inputs = start.to(bench.device).requires_grad_()
    wanted = labels.to(bench.device)
    optimizer = torch.optim.Adam([inputs], LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    limits = pixel_limits(item, bench.device)
    class_loss = _class_loss(bench, task)
    for step in range(steps):
        shifted = _shifted(inputs, item, draws)
        with layer_statistics(bench.teacher) as statistics:
            outputs = bench.call(bench.teacher, {item.name: shifted})
        loss = class_loss(outputs, wanted) + STATISTICS_WEIGHT * statistics_loss(statistics)
        loss = loss + VARIATION_WEIGHT * total_variation(inputs, item)
        (inputs.grad,) = torch.autograd.grad(loss, [inputs])
        optimizer.step()
        schedule.step()
        if limits is not None:
            with torch.no_grad():
                inputs.copy_(torch.maximum(torch.minimum(inputs, limits[1]), limits[0]))
        tell(step + 1)
    return inputs.detach().cpu()


def statistics_loss(statistics: list[Statistics]) -> Tensor:
    """How far means and variances are from those that the layers keep: mean over layers of norms.

    Source: Yin et al. 2020, arXiv:1912.08795, equation 4 (a sum there).
    """
    norms = [
        torch.linalg.vector_norm(item.mean - item.kept_mean)
        + torch.linalg.vector_norm(item.variance - item.kept_variance)
        for item in statistics
    ]
    return torch.stack(norms).mean()


def total_variation(inputs: Tensor, item: InputContract) -> Tensor:
    """Mean squared difference of neighbouring pixels, along both sides; 0 for what is no picture.

    Source: Mahendran & Vedaldi 2015, arXiv:1412.0035, section 3 (beta = 2).
    """
    sides = _sides(item)
    if not sides:
        return inputs.new_zeros(())
    return torch.stack([inputs.diff(dim=side).square().mean() for side in sides]).sum()


@contextmanager
def layer_statistics(model: nn.Module) -> Iterator[list[Statistics]]:
    """Mean and variance of what enters each batch norm layer while the model runs in the block.

    Of each channel over samples and pixels, the variance as the layers keep it (over n - 1).
    """
    found: list[Statistics] = []

    def see(module: nn.Module, args: tuple[Any, ...]) -> None:
        values = args[0].transpose(0, 1).flatten(1)
        kept_mean, kept_variance = module.running_mean, module.running_var
        if isinstance(kept_mean, Tensor) and isinstance(kept_variance, Tensor):
            found.append(
                Statistics(
                    mean=values.mean(dim=1),
                    variance=values.var(dim=1),
                    kept_mean=kept_mean,
                    kept_variance=kept_variance,
                )
            )

    with ExitStack() as hooks:
        for module in batch_norms(model):
            hooks.callback(module.register_forward_pre_hook(see).remove)
        yield found


def batch_norms(model: nn.Module) -> list[nn.Module]:
    """The batch norm layers of a model that keep statistics."""
    return [
        module
        for module in model.modules()
        if isinstance(module, _BATCH_NORMS) and module.running_mean is not None
    ]


def asked_labels(task: Task, count: int, draws: Generator) -> Tensor:
    """Classes in equal shares, in random order; zeros for a model without classes of a sample."""
    if not task.has_classes or task.positions:
        return torch.zeros(count, dtype=torch.long)
    order = torch.randperm(count, generator=draws)
    return torch.arange(count).remainder(task.classes)[order]


def pixel_limits(item: InputContract, device: torch.device) -> tuple[Tensor, Tensor] | None:
    """Black and white as the model sees them; None for what is no picture.

    Shapes: (channels, 1, 1), or (channels,) where channels come last.
    """
    source = item.source
    if not isinstance(source, Image):
        return None
    shape = (-1, 1, 1) if source.layout == "NCHW" else (-1,)
    mean, deviation = (
        torch.tensor(values, device=device).expand(source.channels)
        for values in (source.mean, source.deviation)
    )
    black, white = -mean / deviation, (WHITE_LEVEL * source.scale - mean) / deviation
    return black.reshape(shape), white.reshape(shape)


def _class_loss(bench: Bench, task: Task) -> Callable[[dict[str, Tensor], Tensor], Tensor]:
    if not task.has_classes or task.positions:
        return lambda outputs, _: outputs[task.output].new_zeros(())
    read = scores_reader(bench)
    return lambda outputs, wanted: functional.cross_entropy(read(outputs[task.output]), wanted)


def _shifted(inputs: Tensor, item: InputContract, draws: Generator) -> Tensor:
    sides = _sides(item)
    if not sides:
        return inputs
    reach = [int(inputs.shape[side] * SHIFT_SHARE) for side in sides]
    moves = [int(torch.randint(-most, most + 1, (), generator=draws)) for most in reach]
    return inputs.roll(moves, dims=sides)


def _sides(item: InputContract) -> tuple[int, ...]:
    """The axes of height and width; none for what is no picture."""
    source = item.source
    if isinstance(source, Image):
        return (2, 3) if source.layout == "NCHW" else (1, 2)
    return (2, 3) if len(source.element_shape) == 3 else ()


def _only_input(bench: Bench) -> InputContract:
    items = bench.contract.inputs
    if len(items) != 1 or not items[0].dtype.startswith("float"):
        given = ", ".join(f"{item.name} {item.dtype}" for item in items)
        raise StepError(
            f"distil: synthetic_samples: the model takes {given}; inputs can only be made for a "
            "model that takes one tensor of floats, or for a causal language model, where task = "
            '"language" says so: set either, or synthetic_samples to 0'
        )
    return items[0]


def _require_statistics(teacher: nn.Module) -> None:
    if not batch_norms(teacher):
        raise StepError(
            "distil: synthetic_samples: the teacher has no batch norm layers that keep statistics, "
            "and nothing else in it tells what its training data looked like; set "
            "synthetic_samples to 0 and give unlabelled samples"
        )


def _write(part: Path, name: str, inputs: Tensor, labels: Tensor | None) -> None:
    if part.exists():  # a search that was killed while it wrote
        shutil.rmtree(part)
    with DatasetWriter(part) as writer:
        for place, row in enumerate(inputs.numpy()):
            sample = {name: row}
            if labels is not None:
                sample[TARGET] = labels[place].numpy().reshape(())
            writer.append(sample)
