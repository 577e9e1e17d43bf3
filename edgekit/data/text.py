"""Texts to tensors: ids, mask or types of a Hugging Face tokenizer, padded or cut."""

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.core.contract import Text
from edgekit.core.errors import InputError, MissingDependencyError
from edgekit.data.preprocess import as_array, cast_exactly, shape_fault

Array = NDArray[Any]


def prepare_text(
    value: Any, source: Text, *, where: str, assets: Mapping[str, bytes] | None = None
) -> Array:
    """One part of a tokenized text, ``length`` long.

    A long text is cut so that its special tokens stay. An array of whole numbers of the tensor's
    own shape is taken as tokenized already; a Path is a file with the text.
    Raises: InputError, MissingDependencyError.
    """
    if isinstance(value, Path):
        value = _read_text(value, where)
    if not isinstance(value, str):
        return _tokenized_already(value, source, where)
    tokenizer = _tokenizer_for(source, where, assets)
    encoding = tokenizer.encode(value)
    tokens = {
        "ids": encoding.ids,
        "mask": encoding.attention_mask,
        "types": encoding.type_ids,
    }[source.part]
    row = np.full(source.length, source.pad_id if source.part == "ids" else 0, dtype=np.int64)
    row[: len(tokens)] = tokens
    cast = row.astype(source.dtype)
    if not np.array_equal(cast, row):
        raise InputError(f"{where}: token ids up to {row.max()} do not fit into {source.dtype}")
    return cast


def _read_text(path: Path, where: str) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as fault:
        raise InputError(f"{where}: '{path}' is no text file in UTF-8: {fault}") from fault


def _tokenized_already(value: Any, source: Text, where: str) -> Array:
    array = as_array(value, where=f"{where}: neither a text nor its tokens")
    if array.shape != source.element_shape:
        raise InputError(f"{where}: {shape_fault(array.shape, source.element_shape)}")
    return cast_exactly(array, np.dtype(source.dtype), where=where)


def _tokenizer_for(source: Text, where: str, assets: Mapping[str, bytes] | None) -> Any:
    if assets is None:
        content = _tokenizer_file(source.tokenizer, where)
    elif source.tokenizer in assets:
        content = assets[source.tokenizer]
    else:
        raise InputError(f"{where}: there is no tokenizer '{source.tokenizer}' beside the model")
    return _tokenizer(content, source.length, f"{where}: tokenizer '{source.tokenizer}'")


def _tokenizer_file(path: str, where: str) -> bytes:
    try:
        status = Path(path).stat()
        return _read_once(path, status.st_mtime_ns, status.st_size)
    except OSError as fault:
        raise InputError(
            f"{where}: the tokenizer '{path}' cannot be read: {fault.strerror}"
        ) from fault


@lru_cache(maxsize=4)
def _read_once(path: str, _changed_ns: int, _size_bytes: int) -> bytes:
    return Path(path).read_bytes()


@lru_cache(maxsize=4)
def _tokenizer(content: bytes, length: int, where: str) -> Any:
    try:
        from tokenizers import Tokenizer  # noqa: PLC0415
    except ModuleNotFoundError as missing:
        raise MissingDependencyError(
            f"{where}: texts need tokenizers, which is not installed: pip install 'edgekit[text]'"
        ) from missing
    try:
        tokenizer = Tokenizer.from_str(content.decode("utf-8"))
        # The contract's length rules, whatever the file says of its own.
        tokenizer.no_padding()
        tokenizer.enable_truncation(max_length=length)
    except Exception as fault:  # The library raises no narrower class for a bad file.
        raise InputError(f"{where}: is no tokenizer.json: {fault}") from fault
    special = tokenizer.num_special_tokens_to_add(is_pair=False)
    if special >= length:
        raise InputError(
            f"{where}: adds {special} special tokens, which leave no room in a length of {length}"
        )
    return tokenizer
