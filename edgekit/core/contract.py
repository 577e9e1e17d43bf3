"""What goes into a model and what comes out: names, shapes, dtypes and processing, as data.

A shape is a tuple with the batch axis first; an entry is a whole number, or the name of an axis
that may vary (``"batch"``). Processing is declared, never code, so that any wrapper in any
language can apply it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

Dimension = int | str
Shape = tuple[Dimension, ...]
DTYPES = ("float32", "float16", "int64", "int32", "uint8", "int8", "bool")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """An input that is a plain tensor; ``shape`` is without the batch axis."""

    kind: ClassVar[str] = "tensor"
    shape: tuple[int, ...]
    dtype: str = "float32"

    @property
    def element_shape(self) -> tuple[int, ...]:
        """The shape of one sample."""
        return self.shape


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """An input that is a picture: ``(pixels * scale - mean) / deviation`` in ``layout``.

    Raw samples are uint8 (height, width, channels), or (height, width) for one channel.
    """

    kind: ClassVar[str] = "image"
    height: int
    width: int
    channels: Literal[1, 3] = 3
    mean: tuple[float, ...] = (0.0,)
    deviation: tuple[float, ...] = (1.0,)
    scale: float = 1 / 255
    layout: Literal["NCHW", "NHWC"] = "NCHW"
    channel_order: Literal["RGB", "BGR"] = "RGB"
    resize: Literal["bilinear", "bicubic", "nearest"] = "bilinear"
    fit: Literal["stretch", "crop"] = "stretch"
    dtype: str = "float32"

    @property
    def element_shape(self) -> tuple[int, ...]:
        """The shape of one sample."""
        if self.layout == "NCHW":
            return (self.channels, self.height, self.width)
        return (self.height, self.width, self.channels)


@dataclass(frozen=True, slots=True, kw_only=True)
class Audio:
    """An input that is sound: mono samples in -1..1 at ``rate_hz``, cut or zero-padded.

    Raw samples are int16, or a wav file of any rate. ``add_channel`` gives shape (1, samples).
    """

    kind: ClassVar[str] = "audio"
    rate_hz: int
    samples: int
    mean: float = 0.0
    deviation: float = 1.0
    add_channel: bool = True
    dtype: str = "float32"

    @property
    def element_shape(self) -> tuple[int, ...]:
        """The shape of one sample."""
        return (1, self.samples) if self.add_channel else (self.samples,)


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """An input that is one part of a tokenized text, padded or cut to ``length`` tokens.

    ``tokenizer`` is a Hugging Face ``tokenizer.json``: the user's path in a workload, a path
    inside the bundle in a manifest. ``part`` says which of the tokenizer's results this is.
    """

    kind: ClassVar[str] = "text"
    tokenizer: str
    length: int
    part: Literal["ids", "mask", "types"] = "ids"
    pad_id: int = 0
    dtype: str = "int64"

    @property
    def element_shape(self) -> tuple[int, ...]:
        """The shape of one sample."""
        return (self.length,)


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter:
    """An input that no caller gives: the numbers of a low-rank adapter, chosen by its name.

    adapters: name to a .npy file in the bundle, a vector of float32. The model without any adapter
    takes zeros.
    """

    kind: ClassVar[str] = "adapter"
    # What random factors of a trained adapter's size deviate by: factors of 1 would drive every
    # layer far out of its range, where the float kernels of two engines part.
    spread: ClassVar[float] = 0.05
    length: int
    adapters: Mapping[str, str]
    dtype: str = "float32"

    @property
    def element_shape(self) -> tuple[int, ...]:
        """The shape of one sample."""
        return (self.length,)


InputKind = Tensor | Image | Audio | Text | Adapter
# The names of the model without any adapter, which no adapter may have.
NO_ADAPTER = ("", "none")


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """What is known of an output besides its tensor: its labels and what to do with its scores."""

    labels: tuple[str, ...] = ()
    activation: Literal["none", "softmax", "sigmoid"] = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class InputContract:
    """One named input: its tensor (batch first) and how raw data becomes it."""

    name: str
    dtype: str
    shape: Shape
    source: InputKind


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputContract:
    """One named output: its tensor (batch first) and its meaning."""

    name: str
    dtype: str
    shape: Shape
    meaning: Output = field(default_factory=Output)


@dataclass(frozen=True, slots=True, kw_only=True)
class Contract:
    """The interface of a model, the same for every artifact made of it."""

    inputs: tuple[InputContract, ...]
    outputs: tuple[OutputContract, ...]

    @property
    def has_dynamic_batch(self) -> bool:
        """Whether the first axis of the inputs may vary."""
        return all(isinstance(item.shape[0], str) for item in self.inputs)

    @property
    def given_inputs(self) -> tuple[InputContract, ...]:
        """The inputs that a caller gives: all but the adapter."""
        return tuple(item for item in self.inputs if not isinstance(item.source, Adapter))

    @property
    def adapter(self) -> InputContract | None:
        """The input of the adapter that is chosen by name, where there is one."""
        return next((item for item in self.inputs if isinstance(item.source, Adapter)), None)

    @property
    def adapters(self) -> Mapping[str, str]:
        """The files of the adapters that can be chosen, by name; empty where there are none."""
        sources = (item.source for item in self.inputs)
        return next((item.adapters for item in sources if isinstance(item, Adapter)), {})
