"""One item of a user's data taken apart: which value belongs to which input, and the target."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.core.codec import nearest
from edgekit.core.contract import InputKind, Text
from edgekit.core.errors import WorkloadError
from edgekit.data.dataset import TARGET


def split_item(
    item: Any, inputs: Mapping[str, InputKind], where: str
) -> tuple[dict[str, Any], Any]:
    """An item as values by input name, and its target (None where there is none).

    Raises: WorkloadError where names or numbers of values do not fit the inputs.
    """
    names = list(inputs)
    if isinstance(item, Mapping):
        values = {key: value for key, value in item.items() if key != TARGET}
        return _by_name(values, names, where), item.get(TARGET)
    if not _is_pack(item):
        return _assign(item, inputs, where), None
    parts = list(item)
    if len(parts) == 2 and (len(names) == 1 or _holds_all(parts[0], inputs)):
        return _assign(parts[0], inputs, where), parts[1]
    if len(parts) == 1:
        return _assign(parts[0], inputs, where), None
    if len(names) > 1 and len(parts) in (len(names), len(names) + 1):
        target = parts[len(names)] if len(parts) > len(names) else None
        return dict(zip(names, parts, strict=False)), target
    raise WorkloadError(
        f"{where}: a tuple of {len(parts)}; the model has {len(names)} input(s) "
        f"({', '.join(names)}), so give x, (x, y) or a dict by input name"
    )


def _assign(value: Any, inputs: Mapping[str, InputKind], where: str) -> dict[str, Any]:
    names = list(inputs)
    if isinstance(value, Mapping):
        return _by_name(dict(value), names, where)
    if _is_shared_text(value, inputs):
        return dict.fromkeys(names, value)
    if len(names) == 1:
        is_wrapped = _is_pack(value) and len(value) == 1
        return {names[0]: value[0] if is_wrapped else value}
    if isinstance(value, (tuple, list)) and len(value) == len(names):
        return dict(zip(names, value, strict=True))
    raise WorkloadError(
        f"{where}: {_shown(value)} for a model of {len(names)} inputs; give a tuple in the order "
        f"{', '.join(names)}, or a dict by these names"
    )


def _by_name(values: dict[str, Any], names: list[str], where: str) -> dict[str, Any]:
    for key in values:
        if key not in names:
            raise WorkloadError(
                f"{where}: '{key}' is no input of the model{nearest(str(key), [*names, TARGET])}"
            )
    for name in names:
        if name not in values:
            raise WorkloadError(f"{where}: input '{name}' is missing")
    return {name: values[name] for name in names}


def _is_pack(value: Any) -> bool:
    """Whether a sequence holds several values rather than being one.

    A tuple always does. A list does when it holds tensors, dicts or tuples (a DataLoader gives
    lists); a list of numbers, texts or lists is one value.
    """
    if isinstance(value, tuple):
        return True
    is_plain = (int, float, np.generic, str, Path, list)
    return isinstance(value, list) and any(not isinstance(part, is_plain) for part in value)


def _holds_all(value: Any, inputs: Mapping[str, InputKind]) -> bool:
    """Whether a value carries every input of a model with several."""
    if isinstance(value, Mapping) or _is_shared_text(value, inputs):
        return True
    return _is_pack(value) and len(value) == len(inputs)


def _is_shared_text(value: Any, inputs: Mapping[str, InputKind]) -> bool:
    """Whether this is text for inputs that are all parts of one tokenized text."""
    sources = list(inputs.values())
    if not all(isinstance(source, Text) for source in sources):
        return False
    tokenizers = {source.tokenizer for source in sources if isinstance(source, Text)}
    return len(tokenizers) == 1 and is_text(value)


def is_text(value: Any) -> bool:
    """Whether this is one text (or path), or several."""
    return isinstance(value, str) or is_text_list(value)


def is_text_list(value: Any) -> bool:
    """Whether this is a list of texts (or paths)."""
    is_list = isinstance(value, (list, tuple)) and bool(value)
    return is_list and all(isinstance(part, (str, Path)) for part in value)


def _shown(value: Any) -> str:
    shape = getattr(value, "shape", None)
    return type(value).__name__ + ("" if shape is None else f" of shape {list(shape)}")
