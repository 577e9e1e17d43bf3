"""Model files that bring no workload of their own: one is made of the file and of ``--data``.

What the file does not say is filled in plainly: a picture's pixels become 0..1, the metric is
top-1 where there are class labels (names, or a whole number for several scores), mean absolute
error where the targets are other numbers, and cosine to the float model where there are none.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from edgekit.core.contract import Image, InputKind, Output, Tensor
from edgekit.core.errors import CompileError, SessionError, WorkloadError
from edgekit.core.workload import Workload
from edgekit.data.dataset import TARGET
from edgekit.data.folders import FolderData, place_of, read_folder
from edgekit.runtime.engine import EngineTensor
from edgekit.runtime.engines import open_engine

FileFormat = Literal["torch", "onnx", "tflite"]
RUNTIMES = {".onnx": ("onnx", "onnx"), ".tflite": ("litert", "tflite")}
KERAS_SUFFIXES = (".keras", ".h5", "")
IMAGE_RANK = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class _Interface:
    """What a model file says of its tensors: (dtype, shape of one sample) by name.

    scores: how many numbers the first output holds for one sample.
    """

    inputs: Mapping[str, tuple[str, tuple[int, ...]]]
    outputs: tuple[str, ...]
    scores: int
    has_dynamic_batch: bool
    model: Any


def workload_of_file(
    path: Path, *, data: Path, labels: Path | None, work: Path
) -> tuple[Workload, FileFormat]:
    """A workload for a ``.pt2``, a float ``.onnx`` or ``.tflite``, or a Keras or SavedModel.

    Raises: WorkloadError for data that do not go with the model; CompileError for a model that
    cannot be taken; MissingDependencyError where its framework is not installed.
    """
    form: FileFormat
    if path.suffix == ".pt2":
        interface, form = _of_program(path), "torch"
    elif path.suffix in KERAS_SUFFIXES:
        # Only a Keras model needs TensorFlow.
        from edgekit.compile.keras import convert_keras  # noqa: PLC0415

        interface, form = _of_graph(convert_keras(path, work)), "tflite"
    else:
        interface, form = _of_graph(path), "onnx" if path.suffix == ".onnx" else "tflite"
    place = place_of(data)
    inputs = {name: _kind(dtype, shape, place) for name, (dtype, shape) in interface.inputs.items()}
    found = read_folder(place, labels, inputs)
    return _workload(path, interface, inputs, found), form


def _workload(
    path: Path, interface: _Interface, inputs: Mapping[str, InputKind], found: FolderData
) -> Workload:
    metric = _metric(found, interface)
    outputs = {name: Output() for name in interface.outputs}
    if metric.startswith("top-1"):
        outputs[interface.outputs[0]] = Output(labels=found.labels)
    return Workload(
        name=path.stem,
        model=interface.model,
        inputs=inputs,
        outputs=outputs,
        calibration=found.calibration,
        evaluation=found.evaluation,
        metric=metric,
        has_dynamic_batch=interface.has_dynamic_batch,
    )


def _metric(found: FolderData, interface: _Interface) -> str:
    if not found.has_target:
        return "cosine"
    is_class = bool(found.labels) or (interface.scores > 1 and _is_whole_number(found))
    name = "top-1" if is_class else "mae"
    return f"{name}:{interface.outputs[0]}" if len(interface.outputs) > 1 else name


def _is_whole_number(found: FolderData) -> bool:
    """Whether the first target is a single whole number: of several scores, the right one's."""
    sample = next(iter(found.evaluation))
    target = np.asarray(sample[TARGET] if isinstance(sample, Mapping) else sample[-1])
    return target.size == 1 and target.dtype.kind in "iu"


def _kind(dtype: str, shape: tuple[int, ...], place: Path) -> InputKind:
    """A picture where the data are pictures and the shape can hold one, else a tensor."""
    is_picture = place.is_dir() and len(shape) == IMAGE_RANK and dtype == "float32"
    if is_picture and shape[0] in (1, 3):
        return _image(shape[0], shape[1], shape[2], "NCHW", dtype)
    if is_picture and shape[2] in (1, 3):
        return _image(shape[2], shape[0], shape[1], "NHWC", dtype)
    return Tensor(shape=shape, dtype=dtype)


def _image(
    channels: int, height: int, width: int, layout: Literal["NCHW", "NHWC"], dtype: str
) -> Image:
    is_gray = channels == 1
    return Image(
        height=height, width=width, channels=1 if is_gray else 3, layout=layout, dtype=dtype
    )


def _of_graph(path: Path) -> _Interface:
    runtime, _ = RUNTIMES[path.suffix]
    try:
        engine = open_engine(runtime, path.read_bytes())
    except SessionError as refusal:
        raise WorkloadError(f"{path}: {refusal}; export the model again") from refusal
    try:
        inputs, outputs = engine.inputs, engine.outputs
    finally:
        engine.close()
    return _Interface(
        inputs={_name(item): (item.dtype.name, _element_shape(item, path)) for item in inputs},
        outputs=tuple(_name(item) for item in outputs),
        scores=math.prod(outputs[0].shape[1:]),
        has_dynamic_batch=all(item.shape[0] < 0 for item in inputs),
        model=path,
    )


def _of_program(path: Path) -> _Interface:
    # Only a torch program needs torch.
    from edgekit.compile.describe import describe_program  # noqa: PLC0415
    from edgekit.compile.program import load_program  # noqa: PLC0415

    program = load_program(path)
    inputs, outputs, is_dynamic = describe_program(program)
    first = program.graph.output_node().args[0][0].meta["val"]
    return _Interface(
        inputs=inputs,
        outputs=outputs,
        scores=math.prod(first.shape[1:]),
        has_dynamic_batch=is_dynamic,
        model=program,
    )


def _element_shape(tensor: EngineTensor, path: Path) -> tuple[int, ...]:
    shape = tensor.shape[1:]
    if not tensor.shape or any(length < 0 for length in shape):
        raise CompileError(
            f"{path.name}: input '{tensor.name}' has shape {list(tensor.shape)}; only the first "
            "axis, the batch, may vary: export the model with the other axes fixed"
        )
    return shape


def _name(tensor: EngineTensor) -> str:
    """A tensor's name as a contract and a file name can hold it."""
    kept = "".join(sign if sign.isalnum() or sign in "_-." else "_" for sign in tensor.name)
    return kept.strip("._-") or "tensor"
