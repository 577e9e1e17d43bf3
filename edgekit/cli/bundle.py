"""What a finished bundle is: inspect, verify, compare, pack, unpack."""

from pathlib import Path
from typing import Any

import click

from edgekit.cli.options import NamedPercent, force_option, json_option
from edgekit.cli.output import remark, say, say_json
from edgekit.cli.verb import Verb
from edgekit.core.errors import BudgetError

bundle_argument = click.argument("bundle", type=click.Path(path_type=Path))


@click.command(
    "inspect",
    cls=Verb,
    example="edgekit inspect digits-phone.edgekit\nedgekit inspect digits-phone.zip --json",
)
@bundle_argument
@json_option
def inspect_command(bundle: Path, *, is_json: bool) -> None:
    """Show what a bundle is and how it did.

    BUNDLE (a folder or a zip) is verified first. Then: what goes in and comes out, how it was
    compressed, the verdict on every limit, every figure with how and where it was got, its files,
    and where it comes from.
    """
    from edgekit.bundle.verify import verify_bundle
    from edgekit.report.bundle import bundle_view

    found = verify_bundle(bundle)
    if is_json:
        say_json(
            {
                "bundle_id": found.bundle_id,
                "manifest": found.manifest,
                "evidence": found.evidence,
            }
        )
    else:
        say(*bundle_view(found.manifest, found.evidence))


@click.command(
    "verify",
    cls=Verb,
    example="edgekit verify digits-phone.edgekit\n"
    "edgekit verify digits-phone.edgekit --require proven --self-test",
)
@bundle_argument
@click.option(
    "--require",
    type=click.Choice(("proven", "candidate")),
    help="The least standing that is not refused.",
)
@click.option(
    "--self-test",
    "is_tested",
    is_flag=True,
    help="Also run the golden inputs here and compare what comes out.",
)
@json_option
def verify_command(bundle: Path, require: Any, *, is_tested: bool, is_json: bool) -> None:
    """Check that a bundle is what its manifest says.

    Holds every file of BUNDLE (a folder or a zip) against the manifest's hashes, the manifest
    against its own rules, and the verdict against the figures. Exit code 6 where anything is not
    as it should be. A folder beside another bundle's zip, or the other way round, is named.
    """
    from edgekit.bundle.beside import fault_beside
    from edgekit.bundle.verify import open_bundle

    found = open_bundle(bundle, require=require)
    beside = fault_beside(bundle, found.bundle_id)
    standing = found.evidence.verdict.standing.value
    result: dict[str, Any] = {
        "bundle_id": found.bundle_id,
        "standing": standing,
        "files": len(found.contents),
    }
    if beside:
        result["beside"] = beside
        remark("warning", f"{bundle}: {beside}")
    if is_tested:
        from edgekit.cli.use import self_test

        result["self_test"] = self_test(bundle)
    if is_json:
        say_json(result)
        return
    click.echo(f"{bundle}: whole, {len(found.contents)} files, {standing.upper()}")
    click.echo(f"bundle_id {found.bundle_id}")
    if is_tested:
        click.echo("self-test: every golden output came out as it should")


@click.command(
    "compare",
    cls=Verb,
    example="edgekit compare last_week.edgekit today.edgekit\n"
    "edgekit compare a.zip b.zip --tolerance 2 --tolerance latency_ratio=10",
)
@click.argument("a", type=click.Path(path_type=Path))
@click.argument("b", type=click.Path(path_type=Path))
@click.option(
    "--tolerance",
    "tolerances",
    multiple=True,
    type=NamedPercent(),
    help="How many percent worse B may be than A (default 5), or NAME=PERCENT for one figure. "
    "May be repeated.",
)
@json_option
def compare_command(
    a: Path, b: Path, tolerances: tuple[tuple[str, float], ...], *, is_json: bool
) -> None:
    """Compare two bundles figure by figure.

    Each figure of A and B, how much it changed and whether that is a regression; then what differs
    in strategy, contract, versions and lineage. Exit code 3 when a figure of B is worse by more
    than the tolerance and the intervals do not overlap: made for CI. A host's milliseconds are
    shown but not judged, since they wander; the ratio to the float model is.
    """
    from edgekit.cli.views import comparison_view
    from edgekit.flow.compare import DEFAULT_PERCENT, compare

    by_name = dict(tolerances)
    percent = by_name.pop("", DEFAULT_PERCENT)
    result = compare(a, b, tolerance_percent=percent, by_name=by_name)
    if is_json:
        say_json({"has_regressed": result.has_regressed, "comparison": result})
    else:
        say(*comparison_view(result))
    if result.has_regressed:
        raise click.exceptions.Exit(BudgetError.exit_code)


@click.command(
    "pack",
    cls=Verb,
    example="edgekit pack digits-phone.edgekit\n"
    "edgekit pack digits-phone.edgekit --out release/digits.zip",
)
@bundle_argument
@click.option("--out", "-o", type=click.Path(path_type=Path), help="BUNDLE.zip if left out.")
@force_option
@json_option
def pack_command(bundle: Path, out: Path | None, *, is_forced: bool, is_json: bool) -> None:
    """Pack a bundle's folder into one zip.

    The bundle is verified first. The same bundle always gives the same bytes, and every command
    takes the zip as it takes the folder.
    """
    from edgekit.bundle.seal import pack

    chosen = out or Path(f"{bundle}.zip")
    pack(bundle, chosen, force=is_forced)
    _say_written(chosen, is_json=is_json)


@click.command(
    "unpack",
    cls=Verb,
    example="edgekit unpack digits-phone.edgekit.zip\nedgekit unpack digits.zip --out digits",
)
@bundle_argument
@click.option(
    "--out", "-o", type=click.Path(path_type=Path), help="The zip's name less .zip if left out."
)
@force_option
@json_option
def unpack_command(bundle: Path, out: Path | None, *, is_forced: bool, is_json: bool) -> None:
    """Unpack a bundle's zip into a folder.

    The zip is verified first; the folder appears whole or not at all.
    """
    from edgekit.bundle.seal import unpack

    if out is None and bundle.suffix != ".zip":
        raise click.UsageError(f"{bundle}: does not end in .zip, so name the folder with --out")
    chosen = out or bundle.with_suffix("")
    unpack(bundle, chosen, force=is_forced)
    _say_written(chosen, is_json=is_json)


def _say_written(path: Path, *, is_json: bool) -> None:
    say_json({"written": path}) if is_json else click.echo(path)
