"""Text that a teacher writes: beginnings of real samples, gone on with by its own choice of tokens.

A causal language model is asked for one token after the other, each drawn from what it holds for
likely, until the sample is full. Beginnings come from the unlabelled samples, the training or the
calibration data. A batch that is finished is kept, and a killed run goes on with the next one.
Source: Kim & Rush 2016, arXiv:1606.07947, section 3.2 (a student learns from its teacher's own
sequences; drawn here instead of searched for).
"""

import math
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Generator, Tensor

from edgekit.compress.bench import Bench
from edgekit.compress.distillation.teachers import Task
from edgekit.compress.training.batches import Rows, stream
from edgekit.compress.training.objective import scores_reader
from edgekit.compress.training.pace import Pace
from edgekit.core.contract import InputContract, Text
from edgekit.core.errors import StepError
from edgekit.core.progress import Reporter
from edgekit.data.dataset import META, Dataset, DatasetWriter, open_dataset

BATCH_SAMPLES = 128
# Scores of tokens before a change may differ by this share of the largest: sums in another order.
_CAUSAL_TOLERANCE = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompts:
    """Beginnings of samples. inputs: by name, whole samples; lengths: tokens that stay, each.

    Shapes: inputs (n, tokens) of ids and mask; lengths (n,).
    """

    inputs: dict[str, Tensor]
    lengths: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class TextInputs:
    """The inputs of a language model: token ids, and their mask where it takes one."""

    ids: str
    mask: str = ""


def generate_texts(  # what is written, from what, and where it goes
    bench: Bench,
    task: Task,
    samples: int,
    folder: Path,
    reporter: Reporter,
    *,
    prompt_tokens: int,
    temperature: float,
) -> tuple[Dataset, ...]:
    """So many samples without targets, in datasets of up to 128; finished ones are kept.

    prompt_tokens: of a real sample, with which each begins. temperature: of the draw; towards 0 the
    likeliest token is taken.
    Raises: StepError for a model that takes no token ids, is not causal, or has another length of
    answer than of text.
    """
    names = text_inputs(bench)
    _check_causal(bench, task, names)
    batches = math.ceil(samples / BATCH_SAMPLES)
    pace, found = Pace(reporter, total=batches), []
    source = beginnings(bench)
    with Rows(source, [item.name for item in bench.contract.inputs]) as rows:
        for number in range(batches):
            part = folder / f"part-{number:04d}"
            if not (part / META).is_file():
                draws = stream(bench.seed, "generated", number)
                count = min(BATCH_SAMPLES, samples - number * BATCH_SAMPLES)
                chosen = torch.randint(source.count, (count,), generator=draws)
                prompts = begin(rows.take(chosen), names, prompt_tokens)
                _write(part, go_on(bench, task, names, prompts, temperature, draws))
            pace.tell(number + 1, f"generated text: batch {number + 1} of {batches}")
            found.append(open_dataset(part))
    return tuple(found)


def beginnings(bench: Bench) -> Dataset:
    """What generated text begins like: unlabelled samples, else those to learn from."""
    return bench.unlabelled or bench.training or bench.calibration


def begin(inputs: Mapping[str, Tensor], names: TextInputs, tokens: int) -> Prompts:
    """The first tokens of samples; of a shorter one all that are no padding, and one at least."""
    ids = inputs[names.ids]
    lengths = torch.full((len(ids),), min(tokens, ids.shape[1]))
    if names.mask:
        lengths = lengths.minimum((inputs[names.mask] != 0).sum(dim=1).clamp(min=1))
    return Prompts(inputs=dict(inputs), lengths=lengths)


def go_on(  # what is written, by whom, by which draw
    bench: Bench,
    task: Task,
    names: TextInputs,
    prompts: Prompts,
    temperature: float,
    draws: Generator,
) -> dict[str, Tensor]:
    """Samples filled by the teacher's tokens behind their prompts, nothing masked.

    Shapes: (n, tokens) each.
    """
    read = scores_reader(bench, bench.teacher)
    inputs = {name: value.clone() for name, value in prompts.inputs.items()}
    ids, lengths = inputs[names.ids], prompts.lengths
    if names.mask:
        inputs[names.mask].fill_(1)
    with torch.no_grad():
        for place in range(int(lengths.min()), ids.shape[1]):
            given = {name: value.to(bench.device) for name, value in inputs.items()}
            outputs = bench.call(bench.teacher, given)[task.output]
            scores = task.classes_last(read(outputs))[:, place - 1].float().cpu()
            shares = (scores / temperature).softmax(dim=-1)
            drawn = torch.multinomial(shares, 1, generator=draws)[:, 0].to(ids.dtype)
            ids[:, place] = torch.where(lengths <= place, drawn, ids[:, place])
    return inputs


def text_inputs(bench: Bench) -> TextInputs:
    """Which inputs are token ids and their mask.

    Raises: StepError where there is no one input of token ids, or one that is neither.
    """
    items = bench.contract.inputs
    masks = [item.name for item in items if _part(item) == "mask"]
    ids = [item.name for item in items if _part(item) == "ids"]
    if not ids:  # plain whole numbers, one for each token
        ids = [
            item.name
            for item in items
            if item.dtype.startswith("int") and len(item.shape) == 2 and not _part(item)
        ]
    if len(ids) != 1 or len(masks) > 1:
        given = ", ".join(f"{item.name} {item.dtype}" for item in items)
        raise StepError(
            f"distil: synthetic_samples: the model takes {given}; text can only be generated for "
            "a language model with one input of token ids (and one mask at most): set "
            "synthetic_samples to 0"
        )
    return TextInputs(ids=ids[0], mask=masks[0] if masks else "")


def _part(item: InputContract) -> str:
    return item.source.part if isinstance(item.source, Text) else ""


def _check_causal(bench: Bench, task: Task, names: TextInputs) -> None:
    """Refuse a teacher that looks ahead: what it says of a token would hang on those to come."""
    inputs = bench.example(2)
    if names.mask:
        inputs[names.mask] = torch.ones_like(inputs[names.mask])
    tokens = inputs[names.ids].shape[1]
    if task.positions != (tokens,) or tokens < 2:
        raise StepError(
            f"distil: synthetic_samples: output '{task.output}' is {list(task.shape)} for two "
            f"samples of {tokens} tokens; text can only be generated by a model with scores for "
            "each of its tokens: set synthetic_samples to 0"
        )
    changed = dict(inputs)
    last = inputs[names.ids][:, -1:]
    changed[names.ids] = torch.cat([inputs[names.ids][:, :-1], (last == 0).to(last)], dim=1)
    with torch.no_grad():
        ours, theirs = (
            task.classes_last(bench.call(bench.teacher, given)[task.output])[:, :-1].float()
            for given in (inputs, changed)
        )
    if float((ours - theirs).abs().max()) > _CAUSAL_TOLERANCE * float(ours.abs().max()):
        raise StepError(
            "distil: synthetic_samples: the model is not causal: another last token changes what "
            "it says of the tokens before; it cannot write text: set synthetic_samples to 0"
        )


def _write(part: Path, inputs: Mapping[str, Tensor]) -> None:
    if part.exists():  # a run that was killed while it wrote
        shutil.rmtree(part)
    arrays = {name: value.numpy() for name, value in inputs.items()}
    with DatasetWriter(part) as writer:
        for place in range(len(next(iter(arrays.values())))):
            writer.append({name: rows[place] for name, rows in arrays.items()})
