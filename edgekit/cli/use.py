"""A bundle at work on this machine: run it on inputs, time it."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgekit.cli.options import json_option
from edgekit.cli.output import guarded_stdout, remark, say, say_json
from edgekit.cli.progress import listening
from edgekit.cli.verb import Verb
from edgekit.core.errors import BundleError, InputError

if TYPE_CHECKING:
    from edgekit.core.contract import Contract
    from edgekit.runtime import Prediction

threads_option = click.option(
    "--threads",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Threads of the engine.",
)
# So many values of an output without labels still say something on a screen.
SHOWN_VALUES = 12


@dataclass(frozen=True, slots=True)
class RawSample:
    """One sample to run: its name in the output, and its raw value (by input name, or the only)."""

    name: str
    value: Mapping[str, Any] | Any


@click.command(
    "run",
    cls=Verb,
    example="edgekit run digits-phone.edgekit one.png two.png --top 3\n"
    "edgekit run two_inputs.edgekit left=a.npy right=b.npy\n"
    "edgekit run sentence.edgekit --text 'the weather is fine'\n"
    "edgekit run digits-phone.edgekit --batch many.npy --json\n"
    "edgekit run writer.edgekit --text 'dear all' --adapter polite",
)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("inputs", metavar="[INPUT]...", nargs=-1)
@click.option("--text", "texts", multiple=True, help="A text as input. May be repeated.")
@click.option(
    "--top",
    type=click.IntRange(min=1),
    default=5,
    show_default=True,
    help="How many labels to print.",
)
@click.option(
    "--adapter",
    default="none",
    show_default=True,
    metavar="NAME",
    help="The adapter to run with, of those that `edgekit inspect` lists.",
)
@click.option("--batch", "is_batch", is_flag=True, help="A .npy file holds many samples.")
@click.option(
    "--require",
    type=click.Choice(("proven", "candidate")),
    help="Refuse a bundle whose standing is less.",
)
@threads_option
@json_option
def run_command(  # noqa: PLR0913 -- one parameter for each option
    bundle: Path,
    inputs: tuple[str, ...],
    texts: tuple[str, ...],
    top: int,
    adapter: str,
    require: Any,
    threads: int,
    *,
    is_batch: bool,
    is_json: bool,
) -> None:
    """Run a bundle on your own inputs.

    BUNDLE is verified and loaded, each INPUT is prepared as the contract declares, and the best
    labels are printed, or the values of outputs that have none. An INPUT is a picture, a
    sound, a text file or a .npy array; a model with several inputs takes them as NAME=FILE.
    """
    import edgekit.runtime

    with (
        guarded_stdout(),
        edgekit.runtime.open(bundle, require=require, threads=threads, adapter=adapter) as session,
    ):
        for note in session.notes:
            remark("note", note)
        samples = list(raw_samples(inputs, texts, session.contract, is_batch=is_batch))
        if not samples:
            raise click.UsageError("give at least one INPUT, or --text")
        found = [(sample.name, session.predict(sample.value, top=top)) for sample in samples]
        bundle_id = session.bundle_id
    if is_json:
        predictions = [{"input": name, **prediction_plain(item)} for name, item in found]
        say_json({"bundle_id": bundle_id, "predictions": predictions})
        return
    for name, prediction in found:
        say(*prediction_lines(name, prediction))


def raw_samples(
    inputs: Sequence[str], texts: Sequence[str], contract: "Contract", *, is_batch: bool
) -> Iterator[RawSample]:
    """The samples that a command line names: texts, files, or one sample of named files.

    A .npy with as many axes as the model's input, the batch axis included, holds a batch.
    """
    names = [item.name for item in contract.given_inputs]
    named = {name: Path(path) for name, path in (_split(item, names) for item in inputs) if name}
    if named:
        if len(named) != len(inputs) or texts:
            raise click.UsageError("name every input (NAME=FILE) or none of them, and each once")
        yield from (
            _rows(named, label=" ".join(inputs))
            if is_batch
            else (RawSample(" ".join(inputs), named),)
        )
        return
    if inputs and not _can_be_unnamed(contract):
        wanted = " ".join(f"{name}=FILE" for name in names)
        raise click.UsageError(f"the model has {len(names)} inputs; name them: {wanted}")
    for path in map(Path, inputs):
        if is_batch or _holds_batch(path, len(contract.given_inputs[0].shape)):
            yield from _rows({"": path}, label=str(path))
        else:
            yield RawSample(str(path), path)
    yield from (RawSample(repr(text), text) for text in texts)


def _can_be_unnamed(contract: "Contract") -> bool:
    """Whether one file says all: there is one input, or all are parts of one text."""
    kinds = {item.source.kind for item in contract.given_inputs}
    return len(contract.given_inputs) == 1 or kinds == {"text"}


def _split(text: str, names: Sequence[str]) -> tuple[str, str]:
    """Name and path of ``NAME=FILE``; a path that merely has a ``=`` in it is a path."""
    name, equals, path = text.partition("=")
    if not equals or Path(text).exists():
        return "", text
    if name not in names:
        from edgekit.core.codec import nearest

        raise InputError(f"'{text}': there is no input '{name}'{nearest(name, names)}")
    return name, path


def _holds_batch(path: Path, rank: int) -> bool:
    if path.suffix != ".npy" or not path.is_file():
        return False
    from edgekit.data.files import load_array

    return load_array(path, where=str(path)).ndim == rank


def _rows(paths: Mapping[str, Path], *, label: str) -> Iterator[RawSample]:
    from edgekit.data.files import load_array

    arrays = {name: load_array(path, where=str(path)) for name, path in paths.items()}
    counts = {len(array) if array.ndim else 0 for array in arrays.values()}
    if len(counts) != 1 or 0 in counts:
        raise InputError(f"{label}: --batch wants as many samples in every file, at least one")
    for index in range(counts.pop()):
        row = {name: array[index] for name, array in arrays.items()}
        yield RawSample(f"{label}[{index}]", row.get("", row))


def prediction_plain(prediction: "Prediction") -> dict[str, Any]:
    """A prediction as JSON holds it."""
    return {
        "labels": {
            name: [{"label": label, "score": score} for label, score in best]
            for name, best in prediction.labels.items()
        },
        "outputs": {name: array.tolist() for name, array in prediction.outputs.items()},
    }


def prediction_lines(name: str, prediction: "Prediction") -> Iterable[str]:
    """A prediction for a person: a line for each label, or the first values of an output."""
    import numpy as np

    yield name
    for output, array in prediction.outputs.items():
        best = prediction.labels.get(output)
        if best is None:
            values = np.array2string(array.ravel()[:SHOWN_VALUES], precision=4, separator=" ")
            more = " ..." if array.size > SHOWN_VALUES else ""
            yield f"  {output}: {array.dtype} {array.shape} {values}{more}"
            continue
        width = max(len(label) for label, _ in best)
        yield from (f"  {output}: {label:<{width}}  {score:.4f}" for label, score in best)


@click.command(
    "bench",
    cls=Verb,
    example="edgekit bench digits-phone.edgekit --threads 1\n"
    "edgekit bench today.edgekit --against last_week.edgekit --pairs 500",
)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "--against",
    type=click.Path(path_type=Path),
    help="Another bundle of the same model; the two take turns, and their ratio is judged.",
)
@threads_option
@click.option(
    "--pairs",
    type=click.IntRange(min=10),
    default=100,
    show_default=True,
    help="How many pairs of runs to time.",
)
@json_option
def bench_command(
    bundle: Path, against: Path | None, threads: int, pairs: int, *, is_json: bool
) -> None:
    """Time a bundle on this machine.

    Runs its golden inputs through the same session that an app would use: the median with its
    interval, and how long it takes to open. On a busy machine only the ratio to another bundle
    (--against) means much.
    """
    from edgekit.flow.bench import bench
    from edgekit.report.figures import figure_table

    with guarded_stdout(), listening() as listener:
        result = bench(bundle, against=against, threads=threads, pairs=pairs, listener=listener)
    say_json(result) if is_json else say(figure_table(result.figures))


def self_test(bundle: Path) -> dict[str, Any]:
    """Run a bundle's golden inputs here.

    Raises: BundleError when an output is not what it was where the bundle was built.
    """
    import edgekit.runtime

    with guarded_stdout(), edgekit.runtime.open(bundle) as session:
        test = session.self_test()
    if not test.is_passed:
        raise BundleError(f"{bundle}: {test}")
    return {"differences": test.differences, "tolerance": test.tolerance, "samples": test.samples}
