"""A compiled model file (or files) and how its tensors answer to the contract's names."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class FileEntry:
    """One file by its path inside its folder, with what it must be."""

    path: str
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Binding:
    """A contract's input or output and its position in the artifact's own list."""

    name: str
    position: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """One runnable model.

    format: "tflite", "onnx" or "ort". runtime: the plug-in that runs it. entry: the file that the
    engine opens. precision: "float32" or what it was quantized to. interface: what kind of
    session serves it. batch: 0 for any, else the only batch size that it takes.
    """

    format: str
    runtime: str
    entry: str
    precision: str
    inputs: tuple[Binding, ...]
    outputs: tuple[Binding, ...]
    batch: int = 1
    interface: Literal["tensor", "stateful", "text"] = "tensor"
