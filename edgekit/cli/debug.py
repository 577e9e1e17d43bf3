"""Where a bundle's artifact goes wrong, layer by layer."""

import re
from pathlib import Path
from typing import Any

import click

from edgekit.cli.bundle import bundle_argument
from edgekit.cli.options import json_option
from edgekit.cli.output import guarded_stdout, say, say_json
from edgekit.cli.progress import listening
from edgekit.cli.verb import Verb
from edgekit.core.codec import nearest
from edgekit.core.errors import InputError


@click.command(
    "debug",
    cls=Verb,
    example="edgekit debug digits-phone.edgekit\n"
    "edgekit debug digits-phone.edgekit one.png two.png --only conv\n"
    "edgekit debug digits-phone.edgekit --float digits.onnx --samples 4 --json",
)
@bundle_argument
@click.argument("inputs", metavar="[INPUT]...", nargs=-1)
@click.option(
    "--float",
    "float_file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The float model, as .tflite or .onnx like the bundle's; out of the cache if left out.",
)
@click.option(
    "--samples",
    type=click.IntRange(min=1),
    help="How many of the golden samples to compare on; all if left out.",
)
@click.option("--text", "texts", multiple=True, help="A text as input. May be repeated.")
@click.option("--batch", "is_batch", is_flag=True, help="A .npy file holds many samples.")
@click.option(
    "--only",
    default="",
    metavar="PATTERN",
    help="Print only layers whose path matches a regular expression.",
)
@json_option
def debug_command(  # noqa: PLR0913 -- one parameter for each option
    bundle: Path,
    inputs: tuple[str, ...],
    float_file: Path | None,
    samples: int | None,
    texts: tuple[str, ...],
    only: str,
    *,
    is_batch: bool,
    is_json: bool,
) -> None:
    """Name the layer of an artifact that goes wrong.

    Runs the float model that BUNDLE was built from and its artifact side by side, on each INPUT
    (given as to `edgekit run`) or on the golden ones: signal to noise, cosine and saturation of
    every layer, the first that goes wrong, and what would mend it. Exit code 0 whatever is found.
    """
    from edgekit.flow.debug import debug
    from edgekit.report.debug import debug_view

    _check_pattern(only)
    with guarded_stdout(), listening() as listener:
        result = debug(
            bundle,
            float_file=float_file,
            samples=samples,
            inputs=_raw_inputs(bundle, inputs, texts, is_batch=is_batch),
            listener=listener,
        )
    if is_json:
        wrong = None if result.wrong is None else result.wrong.layer
        say_json({"is_good": result.is_good, "first_wrong": wrong, "comparison": result})
        return
    if only and not any(re.search(only, item.layer) for item in result.layers):
        names = [item.layer for item in result.layers]
        raise InputError(f"--only: no layer matches '{only}'{nearest(only, names)}")
    say(*debug_view(result, only=only))


def _check_pattern(pattern: str) -> None:
    try:
        re.compile(pattern)
    except re.error as fault:
        raise InputError(f"--only: '{pattern}' is no regular expression: {fault}") from fault


def _raw_inputs(
    bundle: Path, inputs: tuple[str, ...], texts: tuple[str, ...], *, is_batch: bool
) -> list[Any] | None:
    """The samples of the command line; None for the golden ones."""
    if not inputs and not texts:
        return None
    from edgekit.bundle.verify import verify_bundle
    from edgekit.cli.use import raw_samples

    contract = verify_bundle(bundle).manifest.components[0].contract
    return [item.value for item in raw_samples(inputs, texts, contract, is_batch=is_batch)]
