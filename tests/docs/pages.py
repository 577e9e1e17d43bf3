"""The Markdown pages of the project, and what can be taken out of them."""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    [
        *ROOT.glob("*.md"),
        *(ROOT / "docs").glob("**/*.md"),
        *(ROOT / "examples").glob("**/*.md"),
        *(ROOT / "benchmarks").glob("**/*.md"),
        *(ROOT / "tests").glob("**/*.md"),
    ]
)
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")


@dataclass(frozen=True)
class Block:
    """One fenced block: its language ("" for none), its text, and where it starts."""

    page: Path
    language: str
    text: str
    start: int


def name_of(page: Path) -> str:
    """A page as a person names it."""
    return page.relative_to(ROOT).as_posix()


def text_of(name: str) -> str:
    """A page's text by its path from the root."""
    return (ROOT / name).read_text(encoding="utf-8")


def blocks_of(page: Path) -> list[Block]:
    """The fenced blocks of a page, in order."""
    text = page.read_text(encoding="utf-8")
    return [
        Block(page=page, language=found[1], text=found[2], start=found.start())
        for found in FENCE.finditer(text)
    ]


def prose_of(page: Path) -> str:
    """A page without its fenced blocks."""
    return FENCE.sub("", page.read_text(encoding="utf-8"))


def spans_of(page: Path) -> list[str]:
    """What stands between single backticks outside of blocks."""
    return SPAN.findall(prose_of(page))
