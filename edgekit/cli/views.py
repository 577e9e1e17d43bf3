"""Results of ``flow`` put together for a person from the tables of ``report``."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import RenderableType
from rich.text import Text

from edgekit.core.figure import Figure
from edgekit.core.units import format_bytes
from edgekit.core.verdict import Standing
from edgekit.flow.doctor import Diagnosis
from edgekit.flow.results import (
    BuildResult,
    CompareLine,
    Comparison,
    FitLine,
    PlanResult,
    SupportLine,
)
from edgekit.flow.toolchain import ToolchainStatus
from edgekit.report.figures import figure_table, figure_value
from edgekit.report.parts import bullets, pairs, table
from edgekit.report.steps import step_table
from edgekit.report.strategy import skipped_steps, strategy_table
from edgekit.report.verdict import VerdictTable, standing_line

OUTCOME_STYLES = {
    "fits": "green",
    "may not fit": "yellow",
    "does not fit": "red",
    "not supported": "yellow",
}
SUPPORT_STYLES = {"native": "green", "fallback": "yellow", "unsupported": "bold red"}
STATE_STYLES = {"ok": "green", "missing": "red", "other version": "yellow", "broken": "bold red"}


def build_view(result: BuildResult) -> Iterator[RenderableType]:
    """A finished build: verdict, standing, what was not as asked, and where to go from here."""
    manifest = result.manifest
    yield Text(
        f"{manifest.name} for {manifest.device}, target {manifest.target}, effort "
        f"{manifest.effort}, in {result.seconds:.0f} s",
        style="bold",
    )
    yield Text()
    yield VerdictTable(result.verdict)
    yield Text()
    yield standing_line(result.verdict)
    yield step_table(result.evidence.steps)
    yield skipped_steps(manifest.strategy)
    yield bullets("Audit: not as the strategy asked, or not run as stored", result.evidence.audit)
    yield bullets("Known weaknesses", manifest.anti_patterns)
    yield bullets("Notes", _notes(result))
    yield bullets("Cache", _stage_lines(result))
    if result.standing is Standing.REFUSED or result.bundle is None:
        yield from _refusal(result)
    yield _outcome(result)


def _notes(result: BuildResult) -> Iterator[str]:
    """What was said aloud, less that a stage was reused, which the next heading says of all."""
    reused = tuple(f"{stage.name}: reused" for stage in result.stages if stage.is_reused)
    return (note for note in result.evidence.notes if not note.startswith(reused))


def _stage_lines(result: BuildResult) -> Iterator[str]:
    reused = [stage.name for stage in result.stages if stage.is_reused]
    if reused:
        share = f"{len(reused)} of {len(result.stages)} stages"
        yield f"{share} were reused: {', '.join(reused)}"


def _refusal(result: BuildResult) -> Iterator[RenderableType]:
    layers = [(item.layer, format_bytes(item.bytes), item.dtype) for item in result.largest_layers]
    if layers:
        yield Text()
        yield table(("layer", "bytes", "dtype"), layers, title="Largest layers")
    yield bullets("What to try", result.advice)


def _outcome(result: BuildResult) -> RenderableType:
    report = ("report", str(result.report) if result.report else "")
    if result.bundle is None:
        return pairs([("bundle", "none was written"), report], title="Result")
    name = _shell_path(result.bundle)
    rows = [
        ("bundle", str(result.bundle)),
        ("bundle_id", result.bundle_id),
        report,
        ("next", f"edgekit inspect {name}"),
        ("", f"edgekit run {name} INPUT"),
    ]
    return pairs(rows, title="Result")


def _shell_path(path: Path) -> str:
    text = str(path)
    return f"'{text}'" if " " in text else text


def plan_view(result: PlanResult) -> Iterator[RenderableType]:
    """A dry run: facts, strategy, operators by target, estimates."""
    facts = result.facts
    yield pairs(
        [
            ("device", f"{result.profile.name}: {result.profile.title}"),
            ("target", f"{result.target.name}: {result.target.title}"),
            ("model", f"{facts.family}, from {facts.source_format}"),
            ("parameters", f"{facts.parameters:,} ({format_bytes(facts.weight_bytes)})"),
            ("multiplications", f"{facts.macs:,} a sample"),
            ("peak activations", f"{format_bytes(facts.peak_activation_bytes)} as float"),
        ]
    )
    yield strategy_table(result.strategy)
    yield Text()
    yield support_table(result.support)
    yield bullets("Not native", _support_notes(result.support))
    yield Text()
    yield figure_table(result.estimates, title="Estimates (a build measures)")
    yield bullets("Notes", result.notes)


def support_table(lines: tuple[SupportLine, ...]) -> RenderableType:
    """Every operator of the model, a column for each target."""
    targets = list(dict.fromkeys(line.target for line in lines))
    found = {(line.operator, line.target): line for line in lines}
    rows: list[tuple[str | Text, ...]] = []
    for operator in dict.fromkeys(line.operator for line in lines):
        cells = [found.get((operator, target)) for target in targets]
        count = max(line.count for line in cells if line is not None)
        rows.append((operator, str(count), *(_support_cell(line) for line in cells)))
    return table(("operator", "calls", *targets), rows, title="Operators")


def _support_cell(line: SupportLine | None) -> Text:
    if line is None:
        return Text("-")
    is_loud = line.support == "unsupported"
    word = line.support.upper() if is_loud else line.support
    return Text(word, style=SUPPORT_STYLES[line.support])


def _support_notes(lines: tuple[SupportLine, ...]) -> Iterator[str]:
    for line in lines:
        if line.support != "native":
            places = ", ".join(path or "the model itself" for path in line.module_paths)
            note = f"; {line.note}" if line.note else ""
            yield f"{line.operator} on {line.target}: {line.support}{note}; at {places}"


def fit_view(lines: tuple[FitLine, ...]) -> Iterator[RenderableType]:
    """Every profile against one model."""
    rows = [
        (
            line.device,
            line.target,
            Text(line.outcome.upper(), style=OUTCOME_STYLES[line.outcome]),
            _brief(line.estimates),
            line.reason,
        )
        for line in lines
    ]
    yield table(("device", "target", "outcome", "estimated", "reason"), rows)
    fitting, unsure = (
        sum(line.outcome == outcome for line in lines) for outcome in ("fits", "may not fit")
    )
    uncertain = f", {unsure} may not" if unsure else ""
    yield Text(
        f"\n{fitting} of {len(lines)} fit{uncertain}, by estimates alone: nothing was built or "
        "measured"
    )


def _brief(figures: tuple[Figure, ...]) -> str:
    """The estimates that say whether a model fits, which are bytes; the plan has all of them."""
    return ", ".join(
        f"{item.name} {format_bytes(item.value)}"
        for item in figures
        if item.value is not None and item.unit == "bytes"
    )


def comparison_view(result: Comparison) -> Iterator[RenderableType]:
    """Two bundles figure by figure, then what differs in how they were made."""
    yield table(
        ("figure", "A", "B", "change", "", "note"), [_compare_row(line) for line in result.lines]
    )
    yield bullets("Differences", result.differences)
    regressed = [line.name for line in result.lines if line.is_regression]
    yield Text()
    if regressed:
        yield Text(f"REGRESSED: {', '.join(regressed)}", style="bold red")
    else:
        yield Text("NO REGRESSION", style="bold green")


def _compare_row(line: CompareLine) -> tuple[str, str, str, str, Text, str]:
    a, b = ("-" if figure is None else figure_value(figure) for figure in (line.a, line.b))
    change = "-" if line.change is None else _change_text(line.change)
    word = Text("REGRESSED", style="bold red") if line.is_regression else Text("ok", style="green")
    return (line.name, a, b, change, word, line.note)


def _change_text(change: float) -> str:
    if change == 0:
        return "same"
    return f"{abs(change):.1%} {'worse' if change > 0 else 'better'}"


def diagnosis_view(diagnosis: Diagnosis) -> Iterator[RenderableType]:
    """The machine: what is there and what is missing, and the commands that bring it."""
    yield pairs((name, _fact_text(name, value)) for name, value in diagnosis.facts.items())
    rows = [
        (
            item.name,
            item.group,
            Text(
                item.state if item.state == "ok" else item.state.upper(), STATE_STYLES[item.state]
            ),
            item.found or "-",
            item.wanted,
        )
        for item in diagnosis.checks
    ]
    yield Text()
    yield table(("component", "for", "", "found", "wanted"), rows)
    yield Text()
    yield from toolchains_view(diagnosis.toolchains)
    commands = dict.fromkeys(item.fix for item in diagnosis.missing if item.fix)
    yield bullets("What brings the missing ones", commands)
    if not diagnosis.missing:
        yield Text("\nnothing is missing")


def _fact_text(name: str, value: str | int) -> str:
    is_bytes = name.endswith("_bytes") and isinstance(value, int)
    return format_bytes(int(value)) if is_bytes else str(value)


def toolchains_view(found: Sequence[ToolchainStatus]) -> Iterator[RenderableType]:
    """Every target's toolchain, and why the current environment does not do."""
    rows = [
        (item.name, item.state, format_bytes(item.bytes) if item.bytes else "-", str(item.path))
        for item in found
    ]
    yield table(("toolchain", "state", "bytes", "folder"), rows)
    for item in found:
        title = f"{item.name}: what the current environment lacks"
        yield bullets(title, item.problems)


def state_text(status: ToolchainStatus) -> str:
    """The state of a toolchain on one line, with what is missing."""
    if not status.problems:
        return status.state
    return f"{status.state}; the current environment lacks: {'; '.join(status.problems)}"
