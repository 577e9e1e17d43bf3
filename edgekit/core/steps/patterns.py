"""Patterns of module paths in settings: regular expressions that must match somewhere."""

import re

from edgekit.core.errors import StepError


def check_pattern(where: str, pattern: str) -> None:
    """Refuse a pattern that is no regular expression.

    Raises: StepError, saying where it fails.
    """
    compiled_pattern(where, pattern)


def compiled_pattern(where: str, pattern: str) -> re.Pattern[str]:
    """A pattern ready to search with.

    Raises: StepError for one that is no regular expression, saying where it fails.
    """
    try:
        return re.compile(pattern)
    except re.error as error:
        raise StepError(
            f"{where}: '{pattern}' is no regular expression: {error}; write the module path, with "
            "a backslash before what is meant literally"
        ) from error
