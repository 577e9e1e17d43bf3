"""A user's samples, in any of the shapes that people keep them in, as named arrays one by one.

An item of the iterable is one sample or one batch:

    x                      one input
    (x, y)                 with its target
    {"name": x, ...}       by input name, the target under "target"
    ({"name": x, ...}, y)  the same with the target beside it
    ((x1, x2), y)          several inputs in the contract's order
    (x1, x2, y), (x1, x2)  the same, flat

``x`` and ``y`` are torch tensors, numpy arrays, PIL images, paths, texts, lists or numbers. Torch
is recognized by what its tensors offer and is never imported.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.core.contract import Audio, Image, InputKind
from edgekit.core.errors import EdgekitError, InputError, WorkloadError
from edgekit.data.dataset import TARGET
from edgekit.data.items import is_text, is_text_list, split_item
from edgekit.data.preprocess import prepare

Array = NDArray[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """Where in the user's data we are, for messages."""

    set_name: str
    item: int
    sample: int

    def __str__(self) -> str:
        return f"{self.set_name} data, sample {self.sample} (item {self.item})"


def iterate_samples(
    iterable: Iterable[Any],
    inputs: Mapping[str, InputKind],
    *,
    set_name: str,
    needs_target: bool,
) -> Iterator[dict[str, NDArray[Any]]]:
    """Single samples, pre-processed, by input name (and "target" where there is one).

    The iterable is read once, from start to end. All samples have a target or none has.
    Raises: WorkloadError for anything that is not what ``inputs`` declare, naming set, sample and
    input; for no samples at all; for targets that are needed and missing.
    """
    if TARGET in inputs:
        raise WorkloadError(
            f"an input is named '{TARGET}', which is kept for labels; rename the input"
        )
    done, has_target = 0, None
    for index, item in enumerate(_told(_iterate(iterable, set_name), set_name)):
        for sample in _samples_of(item, inputs, _Place(set_name=set_name, item=index, sample=done)):
            place = _Place(set_name=set_name, item=index, sample=done)
            has_target = TARGET in sample if has_target is None else has_target
            _expect_target(sample, place, had_one=has_target, needs_target=needs_target)
            yield sample
            done += 1
    if not done:
        raise WorkloadError(f"{set_name} data: no samples; at least 1 is needed")


def to_array(value: Any, where: str) -> Array:
    """A torch tensor, numpy array, number or nested list as a numpy array, values unchanged.

    Raises: WorkloadError for anything else, and for ragged lists.
    """
    if hasattr(value, "detach"):
        try:
            value = value.detach().cpu().numpy()
        except TypeError as error:  # bfloat16 has no numpy dtype
            raise WorkloadError(f"{where}: a tensor of {value.dtype}: {error}; cast it") from error
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise WorkloadError(f"{where}: rows of unequal length: {error}") from error
    if array.dtype.kind not in "biuf":
        raise WorkloadError(
            f"{where}: {type(value).__name__} of dtype {array.dtype} is not a tensor; give numbers "
            "or booleans as a numpy array, a torch tensor or lists"
        )
    return array


def _iterate(iterable: Iterable[Any], set_name: str) -> Iterator[Any]:
    if isinstance(iterable, (str, bytes, Mapping, Path)):
        raise WorkloadError(
            f"{set_name} data: a {type(iterable).__name__} is not a set of samples; give a list, "
            "a generator or a torch DataLoader of samples"
        )
    if _is_whole_pair(iterable):
        raise WorkloadError(
            f"{set_name} data: two whole arrays in a tuple; write zip(X, Y), which pairs them up"
        )
    rows: Any = iterable
    if not hasattr(rows, "__iter__") and hasattr(rows, "__len__"):
        # A torch map-style Dataset: python's own fallback would run past its end.
        return (rows[index] for index in range(len(rows)))
    try:
        return iter(rows)
    except TypeError as error:
        raise WorkloadError(
            f"{set_name} data: {type(iterable).__name__} cannot be iterated; give a list, a "
            "generator or a torch DataLoader of samples"
        ) from error


def _told(items: Iterator[Any], set_name: str) -> Iterator[Any]:
    """The same items; what the user's own code raises becomes an error that says where."""
    for index in count():
        try:
            item = next(items)
        except StopIteration:
            return
        except EdgekitError:
            raise
        except Exception as error:  # a user's iterable may raise anything
            raise WorkloadError(
                f"{set_name} data: reading item {index} raised {type(error).__name__}: {error}"
            ) from error
        yield item


def _is_whole_pair(value: Any) -> bool:
    """Whether this is ``(X, Y)`` of two whole arrays: equal in length, different in rank."""
    if not isinstance(value, tuple) or len(value) != 2:
        return False
    if not all(hasattr(part, "shape") and len(part.shape) > 0 for part in value):
        return False
    first, second = value
    return len(first) == len(second) and len(first.shape) > len(second.shape)


def _expect_target(
    sample: Mapping[str, Array], place: _Place, *, had_one: bool, needs_target: bool
) -> None:
    has_one = TARGET in sample
    if needs_target and not has_one:
        raise WorkloadError(
            f"{place}: no target, and the metric needs one; give (x, y) or a dict with '{TARGET}'"
        )
    if has_one != had_one:
        now, before = ("a", "none") if has_one else ("no", "one")
        raise WorkloadError(
            f"{place} has {now} target and sample 0 had {before}; label all or none"
        )


def _samples_of(
    item: Any, inputs: Mapping[str, InputKind], place: _Place
) -> Iterator[dict[str, Array]]:
    values, target = split_item(item, inputs, str(place))
    counts = {
        name: _batch_of(value, inputs[name], f"{place}, '{name}'") for name, value in values.items()
    }
    sizes = set(counts.values())
    if len(sizes) > 1:
        shown = ", ".join(
            f"'{name}' is {'one sample' if size is None else f'a batch of {size}'}"
            for name, size in counts.items()
        )
        raise WorkloadError(f"{place}: inputs do not go together: {shown}")
    size = sizes.pop()
    labels = None if target is None else _targets(target, size, place)
    for row in range(1 if size is None else size):
        here = _Place(set_name=place.set_name, item=place.item, sample=place.sample + row)
        sample = {
            name: _prepared(value if size is None else _row(value, row), inputs[name], name, here)
            for name, value in values.items()
        }
        if labels is not None:
            sample[TARGET] = _finite(labels[row], f"{here}, '{TARGET}'")
        yield sample


def _batch_of(value: Any, source: InputKind, where: str) -> int | None:
    """How many samples a value holds; None when it is a single one."""
    if isinstance(value, (str, Path)) or _is_picture(value):
        return None
    if is_text_list(value):
        return len(value)
    if isinstance(value, (list, tuple)) and value and _is_picture(value[0]):
        return len(value)
    array = to_array(value, where)
    single = _single_ndims(array, source)
    if array.ndim in single:
        return None
    if array.ndim - 1 in single:
        if not len(array):
            raise WorkloadError(f"{where}: a batch of 0 samples, shape {list(array.shape)}")
        return len(array)
    raise WorkloadError(f"{where}: {array.dtype} of shape {list(array.shape)}; {_wanted(source)}")


def _wanted(source: InputKind) -> str:
    shape = ", ".join(map(str, source.element_shape))
    text = f"one sample is {source.dtype} [{shape}], a batch is [n, {shape}]"
    if isinstance(source, Image):
        text += f"; raw pixels are uint8 [height, width, {source.channels}]"
    if isinstance(source, Audio):
        text += "; raw sound is int16 [samples]"
    return text


def _single_ndims(array: Array, source: InputKind) -> tuple[int, ...]:
    """The ranks that one sample of an input may have."""
    if isinstance(source, Image) and array.dtype == np.uint8 and source.channels == 1:
        # (rows, height, width) and (height, width, 1) have one rank: the channel axis decides.
        has_channel = array.ndim >= 3 and array.shape[-1] == 1 and source.width != 1
        return (3,) if has_channel else (2,)
    if isinstance(source, Audio) and array.dtype == np.int16:
        return (1,)
    return (len(source.element_shape),)


def _row(value: Any, row: int) -> Any:
    return value[row] if isinstance(value, Sequence) else to_array(value, "")[row]


def _prepared(value: Any, source: InputKind, name: str, place: _Place) -> Array:
    """One pre-processed sample, checked against what its input declares."""
    where = f"{place}, '{name}'"
    if isinstance(value, (int, float, list, tuple)) and not is_text(value):
        # Plain python numbers have no dtype of their own: they take the model's.
        value = _typed(value, source.dtype, where)
    elif hasattr(value, "detach") or isinstance(value, np.generic):
        value = to_array(value, where)
    try:
        # The same words for every sample: what is cached by them is made once.
        ready = prepare(value, source, where=f"input '{name}'")
    except InputError as error:
        raise WorkloadError(f"{place}: {error}") from error
    if ready.dtype != source.dtype or ready.shape != source.element_shape:
        raise WorkloadError(
            f"{where}: {ready.dtype} {list(ready.shape)}; the model wants {source.dtype} "
            f"{list(source.element_shape)}"
        )
    return _finite(ready, where)


def _typed(value: Any, dtype: str, where: str) -> Array:
    array = to_array(value, where)
    is_fraction = array.dtype.kind == "f" and np.dtype(dtype).kind != "f"
    try:
        typed = np.asarray(value, dtype=dtype)
    except (OverflowError, TypeError) as error:
        raise WorkloadError(f"{where}: not {dtype}: {error}") from error
    if is_fraction:
        raise WorkloadError(f"{where}: fractions where the model wants {dtype}")
    if typed.dtype.kind == "b" and not np.array_equal(typed, array):
        raise WorkloadError(f"{where}: the model wants bool; 0 and 1 stand for False and True")
    return typed


def _targets(target: Any, size: int | None, place: _Place) -> list[Array]:
    """One target a sample."""
    array = to_array(target, f"{place}, '{TARGET}'")
    if size is None:
        return [array]
    if size == 1 and array.ndim == 0:
        return [array]
    if array.ndim == 0 or len(array) != size:
        raise WorkloadError(
            f"{place}: targets of shape {list(array.shape)} for a batch of {size}; "
            f"the first axis must be {size}"
        )
    return list(array) if array.ndim > 1 else [np.asarray(item) for item in array]


def _finite(array: Array, where: str) -> Array:
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        position = np.unravel_index(int(np.argmin(np.isfinite(array))), array.shape)
        kind = "NaN" if np.isnan(array[position]) else "infinite"
        at = [int(axis) for axis in position]
        raise WorkloadError(f"{where}: {kind} at {at}; remove or repair this sample")
    return array


def _is_picture(value: Any) -> bool:
    """Whether this is a PIL image, told by what it offers."""
    return hasattr(value, "getbands") and hasattr(value, "convert")
