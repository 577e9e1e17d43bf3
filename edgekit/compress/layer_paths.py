"""Layers by patterns of their module paths, and messages about those that are not there."""

import difflib
import re
from collections.abc import Iterable, Sequence

from edgekit.core.errors import StepError


def matching(where: str, patterns: Sequence[str], paths: Iterable[str]) -> set[str]:
    """The paths in which one of the patterns (regular expressions) matches somewhere.

    Raises: StepError for a pattern that matches nothing, with the nearest paths.
    """
    there = list(paths)
    found: set[str] = set()
    for pattern in patterns:
        matched = {path for path in there if re.search(pattern, path)}
        if not matched:
            raise StepError(f"{where}: '{pattern}' matches no layer{nearest_paths(pattern, there)}")
        found |= matched
    return found


def nearest_paths(wanted: str, there: Sequence[str]) -> str:
    """``; the nearest are ...``: up to three paths that read like it, else the first three."""
    if not there:
        return "; the model has none that could be meant"
    close = difflib.get_close_matches(wanted, there, n=3, cutoff=0.3) or list(there)[:3]
    is_one = len(close) == 1
    return f"; the nearest {'is' if is_one else 'are'} " + ", ".join(f"'{item}'" for item in close)
