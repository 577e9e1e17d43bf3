"""The records of the CIFAR-10 pair as Markdown: mean and spread over seeds, and who wins."""

from collections.abc import Mapping, Sequence
from statistics import mean, stdev

from benchmarks.strategies.cifar_cells import DISTILLED, PLAIN, PLAIN_SAME_COST, Cell
from benchmarks.strategies.cifar_record import Record

HEADER = (
    "| cells | seeds | epochs | cost, 10^12 MACs | parameters | million MACs | top-1 on 2,000 JPEG "
    "| on 200 lossless | on 500 for choices |"
)
TRIALS = "| trial, seed 9 | epochs | cost, 10^12 MACs | on 500 for choices |"
SETS = {"jpeg_percent": "JPEG", "lossless_percent": "lossless"}


def markdown(cells: Sequence[Cell], records: Mapping[str, Record]) -> str:
    """A row for each label, the differences that matter, and the trials before."""
    done = [records[cell.name] for cell in cells if cell.name in records]
    missing = [cell.name for cell in cells if cell.name not in records]
    judged = [item for item in done if item.jpeg_percent is not None]
    trials = [item for item in done if item.jpeg_percent is None]
    lines = [HEADER, _rule(HEADER), *(_row(group) for group in _by_label(judged).values())]
    lines += ["", *_differences(_by_label(judged))]
    if trials:
        lines += ["", TRIALS, _rule(TRIALS), *(_trial(item) for item in trials)]
    if missing:
        lines += ["", f"Not run: {', '.join(missing)}."]
    return "\n".join(lines)


def _by_label(records: Sequence[Record]) -> dict[str, list[Record]]:
    labels = dict.fromkeys(item.label for item in records)
    return {label: [item for item in records if item.label == label] for label in labels}


def _row(group: Sequence[Record]) -> str:
    first = group[0]
    columns = (
        first.label,
        str(len(group)),
        str(first.epochs),
        f"{first.cost_macs / 1e12:.1f}",
        f"{first.parameters:,}",
        f"{first.macs / 1e6:.1f}",
        *(_spread([getattr(item, name) for item in group]) for name in SETS),
        _spread([item.selection_percent for item in group]),
    )
    return "| " + " | ".join(columns) + " |"


def _trial(record: Record) -> str:
    score = _spread([record.selection_percent])
    return f"| {record.label} | {record.epochs} | {record.cost_macs / 1e12:.1f} | {score} |"


def _spread(found: Sequence[float | None]) -> str:
    """Mean and standard deviation over seeds; of one seed the value alone."""
    values = [item for item in found if item is not None]
    if not values:
        return ""
    return f"{mean(values):.2f}" + (f" ± {stdev(values):.2f}" if len(values) > 1 else "")


def _differences(groups: Mapping[str, Sequence[Record]]) -> list[str]:
    lines = []
    for other in (PLAIN, PLAIN_SAME_COST):
        for name, said in SETS.items():
            found = _difference(groups, other, name)
            if found:
                lines.append(f"- {DISTILLED} against {other}, {said}: {found}")
    return lines


def _difference(groups: Mapping[str, Sequence[Record]], other: str, name: str) -> str:
    """The mean difference of equal seeds, and whether it is larger than its own spread."""
    ours, theirs = (
        {item.seed: getattr(item, name) for item in groups.get(label, ())}
        for label in (DISTILLED, other)
    )
    pairs = [ours[seed] - theirs[seed] for seed in ours if seed in theirs]
    if len(pairs) < 2:
        return ""
    gain, spread = mean(pairs), stdev(pairs)
    verdict = "wins" if gain > spread else "loses" if -gain > spread else "cannot be told apart"
    return f"{gain:+.2f} ± {spread:.2f} points over {len(pairs)} seeds: {verdict}"


def _rule(header: str) -> str:
    return "|---" * (header.count("|") - 1) + "|"
