"""Random changes of training pictures, by name: ``"flip, crop:4, cutout:8, noise:0.05"``.

They work on a batch of pre-processed pictures in the layout that the contract declares, in the
order in which they are written; other inputs stay as they are. What comes in from outside the
picture is black as the model sees it, ``(0 - mean) / deviation``, and not 0, which is the mean.

To add one, write a function ``(pictures, size, image, generator) -> pictures`` on
(n, channels, height, width) and an entry in ``AUGMENTATIONS``.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Generator, Tensor

from edgekit.compress.training.faults import faults_of
from edgekit.core.codec import nearest
from edgekit.core.contract import Contract, Image
from edgekit.core.errors import WorkloadError

Inputs = dict[str, Tensor]
Augment = Callable[[Inputs, Generator], Inputs]
Change = Callable[[Tensor, float, Image, Generator], Tensor]

WHITE_LEVEL = 255


@dataclass(frozen=True, slots=True, kw_only=True)
class Augmentation:
    """What is known of an augmentation by name.

    takes: what its number is, in words; "" where it takes none. unit: pixels are whole numbers of
    1 or more and below the picture's shorter side, shares are above 0 and at most 1.
    """

    change: Change
    summary: str
    takes: str = ""
    unit: Literal["", "pixels", "share"] = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Chosen:
    change: Change
    size: float


def make_augment(spec: Any, contract: Contract) -> Augment | None:
    """What a workload's ``augment`` does to a batch of inputs; None where it is None or "".

    spec: names with their numbers, or a callable ``(inputs, generator) -> inputs`` on tensors by
    input name, with the batch first; the generator is a ``torch.Generator`` on the CPU.
    Raises: WorkloadError for names that are not known, numbers out of range, or no picture.
    """
    if spec is None or spec == "":
        return None
    if isinstance(spec, str):
        return _named(spec, contract)
    if callable(spec):
        return _checked(spec)
    raise WorkloadError(
        f"augment: {type(spec).__name__} is none; give names ({', '.join(AUGMENTATIONS)}) or a "
        "callable (inputs, generator) -> inputs"
    )


def flip(pictures: Tensor, _: float, __: Image, draws: Generator) -> Tensor:
    """Each picture mirrored left to right, or not, at even chances."""
    return torch.where(_coins(pictures, draws), pictures.flip(3), pictures)


def flip_vertical(pictures: Tensor, _: float, __: Image, draws: Generator) -> Tensor:
    """Each picture mirrored top to bottom, or not, at even chances."""
    return torch.where(_coins(pictures, draws), pictures.flip(2), pictures)


def crop(pictures: Tensor, size: float, image: Image, draws: Generator) -> Tensor:
    """Each picture moved by up to ``size`` pixels along both axes; black comes in.

    That is the same as a border of ``size`` black pixels and a random crop of the old size.
    Source: He et al. 2016, arXiv:1512.03385, section 4.2.
    """
    count, channels, height, width = pictures.shape
    border = int(size)
    padded = _levels(pictures, image, 0).expand(
        count, channels, height + 2 * border, width + 2 * border
    )
    padded = padded.clone()
    padded[:, :, border : border + height, border : border + width] = pictures
    moves = torch.randint(0, 2 * border + 1, (2, count), generator=draws)
    rows = moves[0][:, None] + torch.arange(height)
    columns = moves[1][:, None] + torch.arange(width)
    return padded[
        torch.arange(count)[:, None, None, None],
        torch.arange(channels)[None, :, None, None],
        rows[:, None, :, None],
        columns[:, None, None, :],
    ]


def cutout(pictures: Tensor, size: float, _: Image, draws: Generator) -> Tensor:
    """A square of ``size`` pixels a side is blanked in each picture, at its edges less of it.

    It becomes 0, which is the mean that the contract declares.
    Source: DeVries & Taylor 2017, arXiv:1708.04552, section 3.
    """
    count, _channels, height, width = pictures.shape
    rows = _within(height, size, count, draws)
    columns = _within(width, size, count, draws)
    is_cut = (rows[:, :, None] & columns[:, None, :])[:, None]
    return pictures.masked_fill(is_cut, 0)


def noise(pictures: Tensor, size: float, image: Image, draws: Generator) -> Tensor:
    """Gaussian noise on every value; its deviation is a share of black to white."""
    drawn = torch.randn(pictures.shape, generator=draws)
    return _clipped(pictures + drawn * size * _span(pictures, image), pictures, image)


def brightness(pictures: Tensor, size: float, image: Image, draws: Generator) -> Tensor:
    """Each picture lighter or darker by up to a share of black to white."""
    shift = _uniform(pictures, draws) * size
    return _clipped(pictures + shift * _span(pictures, image), pictures, image)


def contrast(pictures: Tensor, size: float, image: Image, draws: Generator) -> Tensor:
    """Each picture's distance to its own mean longer or shorter by up to a share of it."""
    values = pictures.float()
    mean = values.mean(dim=(1, 2, 3), keepdim=True)
    scale = 1 + _uniform(pictures, draws) * size
    return _clipped(mean + (values - mean) * scale, pictures, image)


AUGMENTATIONS: Mapping[str, Augmentation] = {
    "flip": Augmentation(change=flip, summary="mirrored left to right"),
    "flip-vertical": Augmentation(change=flip_vertical, summary="mirrored top to bottom"),
    "crop": Augmentation(
        change=crop, summary="moved, with black coming in", takes="pixels", unit="pixels"
    ),
    "cutout": Augmentation(
        change=cutout, summary="a square blanked", takes="pixels a side", unit="pixels"
    ),
    "noise": Augmentation(
        change=noise, summary="noise on every value", takes="share of black to white", unit="share"
    ),
    "brightness": Augmentation(
        change=brightness,
        summary="lighter or darker",
        takes="share of black to white",
        unit="share",
    ),
    "contrast": Augmentation(
        change=contrast, summary="more or less contrast", takes="share of it", unit="share"
    ),
}


def _named(spec: str, contract: Contract) -> Augment:
    images = {item.name: item.source for item in contract.inputs if isinstance(item.source, Image)}
    if not images:
        raise WorkloadError(
            f"augment: '{spec}' changes pictures, and no input is an Image; give a callable "
            "(inputs, generator) -> inputs"
        )
    chosen = [_parse(part.strip(), images) for part in spec.split(",")]

    def augment(inputs: Inputs, generator: Generator) -> Inputs:
        changed = dict(inputs)
        for name, image in images.items():
            is_last = image.layout == "NHWC"
            pictures = changed[name].movedim(3, 1) if is_last else changed[name]
            for item in chosen:
                pictures = item.change(pictures, item.size, image, generator)
            changed[name] = pictures.movedim(1, 3) if is_last else pictures
        return changed

    return augment


def _parse(part: str, images: Mapping[str, Image]) -> _Chosen:
    name, colon, number = (piece.strip() for piece in part.partition(":"))
    if name not in AUGMENTATIONS:
        raise WorkloadError(f"augment: '{name}' is not known{nearest(name, list(AUGMENTATIONS))}")
    known = AUGMENTATIONS[name]
    if not known.takes:
        if colon:
            raise WorkloadError(f"augment: '{part}': {name} takes no number; write '{name}'")
        return _Chosen(change=known.change, size=0.0)
    size = _number(part, name, number, known)
    _check_range(part, size, known, images)
    return _Chosen(change=known.change, size=size)


def _number(part: str, name: str, number: str, known: Augmentation) -> float:
    try:
        return float(number)
    except ValueError as error:
        example = "4" if known.unit == "pixels" else "0.1"
        raise WorkloadError(
            f"augment: '{part}': {name} takes a number, its {known.takes}; write '{name}:{example}'"
        ) from error


def _check_range(part: str, size: float, known: Augmentation, images: Mapping[str, Image]) -> None:
    if known.unit == "share":
        if not 0 < size <= 1:
            raise WorkloadError(f"augment: '{part}': the {known.takes} must be above 0, at most 1")
        return
    side = min(min(image.height, image.width) for image in images.values())
    if not (1 <= size < side and size == int(size)):
        raise WorkloadError(
            f"augment: '{part}': the {known.takes} must be a whole number from 1 to {side - 1}, "
            "less than the picture's shorter side"
        )


def _checked(function: Callable[..., Any]) -> Augment:
    """A user's function, with what it returns held against what it was given."""

    def augment(inputs: Inputs, generator: Generator) -> Inputs:
        with faults_of("the workload's augment", WorkloadError):
            found = function(dict(inputs), generator)
        _check_same(inputs, found)
        return dict(found)

    return augment


def _check_same(inputs: Inputs, found: Any) -> None:
    if not isinstance(found, Mapping) or found.keys() != inputs.keys():
        there = ", ".join(map(str, found)) if isinstance(found, Mapping) else type(found).__name__
        raise WorkloadError(
            f"the workload's augment returned {there}; it must return tensors by input name: "
            f"{', '.join(inputs)}"
        )
    for name, value in inputs.items():
        ours = _described(value)
        theirs = _described(found[name])
        if ours != theirs:
            raise WorkloadError(
                f"the workload's augment made '{name}' {theirs} of {ours}; shape and dtype must "
                "stay as they were"
            )


def _described(value: Any) -> str:
    if not isinstance(value, Tensor):
        return type(value).__name__
    return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"


def _coins(pictures: Tensor, draws: Generator) -> Tensor:
    """Heads or tails for each picture. Shapes: (n, 1, 1, 1)."""
    return torch.rand((len(pictures), 1, 1, 1), generator=draws) < 0.5


def _uniform(pictures: Tensor, draws: Generator) -> Tensor:
    """A number of -1..1 for each picture. Shapes: (n, 1, 1, 1)."""
    return torch.rand((len(pictures), 1, 1, 1), generator=draws) * 2 - 1


def _within(length: int, size: float, count: int, draws: Generator) -> Tensor:
    """Which places of an axis a window of ``size`` covers, its centre anywhere on the axis.

    Shapes: (count, length), bool.
    """
    start = torch.randint(0, length, (count, 1), generator=draws) - int(size) // 2
    places = torch.arange(length)
    return (places >= start) & (places < start + int(size))


def _levels(pictures: Tensor, image: Image, level: int) -> Tensor:
    """What a pixel of this level becomes in each channel. Shapes: (1, channels, 1, 1)."""
    # In float64 as pre-processing does it, so that black is the very same number.
    mean = torch.tensor(image.mean, dtype=torch.float64)
    deviation = torch.tensor(image.deviation, dtype=torch.float64)
    values = (level * image.scale - mean) / deviation
    channels = pictures.shape[1]
    return values.expand(channels).reshape(1, channels, 1, 1).to(pictures.dtype)


def _span(pictures: Tensor, image: Image) -> Tensor:
    black = _levels(pictures, image, 0).float()
    return _levels(pictures, image, WHITE_LEVEL).float() - black


def _clipped(values: Tensor, pictures: Tensor, image: Image) -> Tensor:
    """Values kept between black and white, in the dtype of the pictures."""
    black = _levels(pictures, image, 0).float()
    white = _levels(pictures, image, WHITE_LEVEL).float()
    kept = values.clamp(torch.minimum(black, white), torch.maximum(black, white))
    return (kept if pictures.is_floating_point() else kept.round()).to(pictures.dtype)
