"""The models of this benchmark in float, once for each runtime, and the samples that all tools get.

Every tool starts from the same two files, exported by torch and litert-torch as their own guides
say, and calibrates on the same samples as edgekit, which builds from the workload itself.
"""

import importlib.util
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from edgekit.data.checks import write_checked
from edgekit.data.dataset import TARGET, open_dataset

HERE = Path(__file__).parent
MINILM = HERE.parents[1] / "examples" / "sentence_embedding" / "workload.py"
Arrays = dict[str, NDArray[Any]]
JPEG, LOSSLESS = "cifar10_test_dev2000_jpeg.npz", "cifar10_test_dev200_lossless.npz"


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """One model, and what it is judged on.

    workload: where edgekit finds it. arguments: its ``--arg``s. sets: by name, the arguments that
    choose evaluation data; the first judges. score: "tokens" is of a language model.
    """

    name: str
    workload: str
    arguments: Mapping[str, str]
    sets: Mapping[str, Mapping[str, str]]
    score: Literal["top-1", "cosine", "tokens"]


def _all() -> tuple[Subject, ...]:
    ours = HERE / "workloads.py"
    resnets = (
        Subject(
            name=f"{name}-tuned" if tuned == "yes" else name,
            workload=f"{ours}:{name}",
            arguments={"tuned": tuned},
            sets={"jpeg": {"images": JPEG}, "lossless": {"images": LOSSLESS}},
            score="top-1",
        )
        for name in ("resnet20", "resnet56")
        for tuned in ("no", "yes")
    )
    mobiles = (
        Subject(
            name=name,
            workload=f"{ours}:mobile",
            arguments={"scaled": scaled},
            sets={"dev": {}},
            score="top-1",
        )
        for name, scaled in (("mobile", "no"), ("mobile-scaled", "yes"))
    )
    minilms = (
        Subject(
            name=f"minilm-{length}",
            workload=str(MINILM),
            arguments={"length": str(length)},
            sets={"wiki": {}},
            score="cosine",
        )
        for length in (64, 128)
    )
    stories = Subject(
        name="stories260k",
        workload=f"{HERE / 'stories.py'}:workload",
        arguments={},
        sets={name: {"text": name} for name in ("plays", "stories", "wiki")},
        score="tokens",
    )
    return (*resnets, *mobiles, *minilms, stories)


SUBJECTS = {subject.name: subject for subject in _all()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """One subject on disk. calibration: an npz by input name. sets: inputs and targets by name."""

    floats: Mapping[str, Path]
    calibration: Path
    sets: Mapping[str, tuple[Arrays, NDArray[Any] | None]]


def prepare(subject: Subject, folder: Path) -> Ready:
    """Export the model and write the samples, where that was not done before."""
    folder.mkdir(parents=True, exist_ok=True)
    workload = _workload(subject, {})
    sets = {name: _samples(subject, name, folder) for name in subject.sets}
    calibration = folder / "calibration.npz"
    if not calibration.exists():
        place = folder / "calibration"
        found = _arrays(workload.calibration, workload.inputs, place, has_target=False)
        np.savez(calibration, **found[0])
    with np.load(calibration) as archive:
        example = tuple(torch.from_numpy(archive[name][:1]) for name in archive.files)
        names = list(archive.files)
    floats = {"onnx": folder / "float.onnx", "litert": folder / "float.tflite"}
    for target, export in (("onnx", _to_onnx), ("litert", _to_litert)):
        if not floats[target].exists():
            export(workload.model.eval(), example, names, floats[target])
    return Ready(floats=floats, calibration=calibration, sets=sets)


def _to_onnx(model: nn.Module, example: tuple[Any, ...], names: list[str], path: Path) -> None:
    program = torch.onnx.export(model, example, dynamo=True, input_names=names, verbose=False)
    program.save(path)


def _to_litert(model: nn.Module, example: tuple[Any, ...], _: list[str], path: Path) -> None:
    import litert_torch  # noqa: PLC0415  (seconds to import)

    litert_torch.convert(model, example).export(str(path))


def _samples(subject: Subject, name: str, folder: Path) -> tuple[Arrays, NDArray[Any] | None]:
    workload = _workload(subject, subject.sets[name])
    place = folder / f"evaluation-{name}"
    has_target = subject.score == "top-1"
    return _arrays(workload.evaluation, workload.inputs, place, has_target=has_target)


def _arrays(
    samples: Any, inputs: Mapping[str, Any], folder: Path, *, has_target: bool
) -> tuple[Arrays, NDArray[Any] | None]:
    """Samples as the model takes them, prepared as the workload declares."""
    if folder.exists():
        dataset = open_dataset(folder)
    else:
        checked = write_checked(
            samples, inputs, folder, set_name=folder.name, needs_target=has_target
        )
        dataset = checked.dataset
    rows = next(iter(dataset.batches(dataset.count)))
    return {name: rows[name] for name in inputs}, rows.get(TARGET)


def _workload(subject: Subject, more: Mapping[str, str]) -> Any:
    path, _, function = subject.workload.partition(".py")
    make: Callable[..., Any] = getattr(
        _module(f"{path}.py"), function.removeprefix(":") or "workload"
    )
    return make(**subject.arguments, **more)


@cache
def _module(path: str) -> ModuleType:
    name = f"benchmark_{Path(path).parent.name}_{Path(path).stem}"
    sys.path.insert(0, str(Path(path).parent))
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} cannot be imported")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module
