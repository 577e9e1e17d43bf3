"""Any result as JSON: dataclasses by field, paths as text, enums by value."""

import json
from dataclasses import fields, is_dataclass
from pathlib import PurePath
from typing import Any


def plain_json(value: Any) -> str:
    """Indented JSON of a value, fields that are None left out, one newline at the end.

    Raises: ValueError for NaN and infinities; TypeError for what has no plain form.
    """
    text = json.dumps(value, default=_shallow, indent=2, ensure_ascii=False, allow_nan=False)
    return text + "\n"


def _shallow(value: Any) -> Any:
    """One level of a value that ``json`` does not know; it asks again for what is inside."""
    if is_dataclass(value) and not isinstance(value, type):
        named = {item.name: getattr(value, item.name) for item in fields(value)}
        kind = getattr(type(value), "kind", None)
        tagged = named if kind is None else {"kind": kind, **named}
        return {key: content for key, content in tagged.items() if content is not None}
    if isinstance(value, PurePath):
        return str(value)
    if hasattr(value, "items"):
        return dict(value.items())
    raise TypeError(f"{type(value).__name__} has no plain form")
