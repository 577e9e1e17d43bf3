"""The shapes that all tables share: cells wrap, nothing is cut, colour only repeats the words."""

from collections.abc import Iterable, Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

Cell = str | Text
# Names up to this length keep to one line even when other columns have to wrap for it.
UNBROKEN_NAME = 32


def table(headings: Sequence[str], rows: Iterable[Sequence[Cell]], *, title: str = "") -> Table:
    """Rows under headings; the first column holds names and is the last to be broken.

    A column without a heading holds one word, which is never broken.
    """
    rows = [tuple(_text(cell) for cell in row) for row in rows]
    longest = max((len(row[0]) for row in rows), default=0)
    result = Table(
        title=title or None,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE,
        show_edge=False,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    for index, heading in enumerate(headings):
        # Never on a name that is longer: rich would cut it where it may not wrap it.
        is_kept = not heading or (index == 0 and longest <= UNBROKEN_NAME)
        result.add_column(heading, overflow="fold", no_wrap=is_kept)
    for row in rows:
        result.add_row(*row)
    return result


def pairs(rows: Iterable[tuple[str, Cell]], *, title: str = "") -> RenderableType:
    """Names and values in two columns without headings; rows with an empty value are left out."""
    result = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    kept = [(name, _text(value)) for name, value in rows if len(_text(value))]
    longest = max((len(name) for name, _ in kept), default=0)
    result.add_column(overflow="fold", no_wrap=longest <= UNBROKEN_NAME)
    result.add_column(overflow="fold")
    for name, value in kept:
        result.add_row(Text(name), value)
    return section(title, result) if title else result


def bullets(title: str, lines: Iterable[Cell]) -> RenderableType:
    """A titled list, or nothing where there are no lines."""
    grid = Table(box=None, show_header=False, pad_edge=False, padding=(0, 1, 0, 0))
    grid.add_column(width=1)
    grid.add_column(overflow="fold")
    for line in lines:
        grid.add_row("-", _text(line))
    return section(title, grid) if grid.row_count else Group()


def section(title: str, *content: RenderableType) -> RenderableType:
    """A heading with what stands under it, and one empty line above."""
    return Group(
        Text(), Text(title, style="bold"), *(Padding(item, (0, 0, 0, 2)) for item in content)
    )


def _text(cell: Cell) -> Text:
    return cell if isinstance(cell, Text) else Text(cell)
