"""What a user names as WORKLOAD, resolved into one thing: a workload, its format and its hash.

A Python file (``file.py`` or ``file.py:function``) returns an ``edgekit.Workload``. A ``.pt2``,
a float ``.onnx``, a float ``.tflite`` and a Keras or SavedModel come with ``--data DIR``.
"""

import hashlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from edgekit.core.codec import nearest
from edgekit.core.errors import EdgekitError, MissingDependencyError, WorkloadError
from edgekit.core.workload import Workload
from edgekit.flow.model_files import workload_of_file
from edgekit.flow.whole_onnx import whole_onnx

SourceFormat = Literal["torch", "onnx", "tflite"]
MODEL_SUFFIXES = (".pt2", ".onnx", ".tflite", ".keras", ".h5")
DEFAULT_FUNCTION = "workload"


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A resolved workload.

    format: what kind of model ``workload.model`` is; for "onnx" and "tflite" it is the path of a
    float file. digest: sha256 of the workload's file or the model file; "" for a live object.
    origin: what the user named, for messages.
    """

    workload: Workload
    format: SourceFormat
    digest: str
    origin: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceOptions:
    """What goes with a source: data for a model file, arguments for a workload's function."""

    data: Path | None = None
    labels: Path | None = None
    arguments: Mapping[str, str] = field(default_factory=dict)


NOTHING = SourceOptions()


def resolve_source(
    source: str | Path | Workload, work: Path, options: SourceOptions = NOTHING
) -> Source:
    """Find out what the user handed over; ``work`` holds what a conversion writes.

    Raises: WorkloadError when it is nothing that edgekit knows.
    """
    if isinstance(source, Workload):
        _refuse_options(options, source.name)
        return Source(workload=source, format="torch", digest="", origin=source.name)
    text = str(source)
    path, function = _split_function(text)
    if path.suffix == ".py":
        _refuse_data(options, text)
        workload = load_python(path, function or DEFAULT_FUNCTION, options.arguments)
        return Source(workload=workload, format="torch", digest=_digest(path), origin=text)
    is_saved_model = path.is_dir() and (path / "saved_model.pb").is_file()
    if path.suffix not in MODEL_SUFFIXES and not is_saved_model:
        allowed = f"a .py file, one of {', '.join(MODEL_SUFFIXES)}, or a SavedModel folder"
        raise WorkloadError(f"{text}: not a workload; WORKLOAD is {allowed}")
    if not path.exists():
        raise WorkloadError(f"{text}: no such file")
    _refuse_arguments(options, text)
    if options.data is None:
        raise WorkloadError(
            f"{text}: a model file needs --data DIR (an image folder, a CSV or an npz) to be "
            "calibrated and judged on"
        )
    if path.suffix == ".onnx":
        path = whole_onnx(path, work)
    workload, form = workload_of_file(path, data=options.data, labels=options.labels, work=work)
    return Source(workload=workload, format=form, digest=_digest(path), origin=text)


def load_python(path: Path, function: str, arguments: Mapping[str, str]) -> Workload:
    """The workload that a function of a Python file returns when called with ``arguments``.

    Raises: WorkloadError when the file, the function or the workload is not there, or it failed.
    """
    if not path.is_file():
        raise WorkloadError(f"{path}: no such file")
    module = _import_file(path)
    maker: Callable[..., Any] | None = getattr(module, function, None)
    if maker is None or not callable(maker):
        names = [name for name, value in vars(module).items() if callable(value)]
        raise WorkloadError(
            f"{path}: no function '{function}'{nearest(function, names or ['workload'])}; "
            f"write it, or name another one as {path.name}:FUNCTION"
        )
    _check_arguments(maker, arguments, f"{path}:{function}")
    with _told(path):
        workload = maker(**arguments)
    if not isinstance(workload, Workload):
        raise WorkloadError(
            f"{path}: {function}() returned {type(workload).__name__}, not an edgekit.Workload"
        )
    return workload


def _import_file(path: Path) -> Any:
    name = f"edgekit_workload_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise WorkloadError(f"{path}: Python cannot import this file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    # A workload may import what lies beside it, as it would when run as a script.
    folder = str(path.resolve().parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    with _told(path):
        spec.loader.exec_module(module)
    return module


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Turn whatever a user's file raises into one error that names the line."""
    try:
        yield
    except (EdgekitError, KeyboardInterrupt):
        raise
    except ModuleNotFoundError as missing:
        raise MissingDependencyError(
            f"{path}: it imports '{missing.name}', which is not installed; "
            f"install it (pip install {(missing.name or '').split('.')[0]}) and run again"
        ) from missing
    except (Exception, SystemExit) as error:  # a user's file may raise anything, and exit
        raise WorkloadError(
            f"{path}: {_place(error, path)}{type(error).__name__}: {error}"
        ) from error


def _place(error: BaseException, path: Path) -> str:
    line = None
    trace = error.__traceback__
    while trace is not None:
        if Path(trace.tb_frame.f_code.co_filename).resolve() == path.resolve():
            line = trace.tb_lineno
        trace = trace.tb_next
    return "" if line is None else f"line {line}: "


def _split_function(text: str) -> tuple[Path, str | None]:
    head, colon, tail = text.rpartition(":")
    if colon and head.endswith(".py"):
        return Path(head), tail
    return Path(text), None


def _check_arguments(maker: Callable[..., Any], arguments: Mapping[str, str], where: str) -> None:
    parameters = inspect.signature(maker).parameters
    for name in arguments:
        if name not in parameters:
            raise WorkloadError(
                f"{where}: it takes no argument '{name}'{nearest(name, list(parameters))}"
            )
    for name, parameter in parameters.items():
        is_needed = parameter.default is parameter.empty and parameter.kind in (
            parameter.POSITIONAL_ONLY,
            parameter.POSITIONAL_OR_KEYWORD,
            parameter.KEYWORD_ONLY,
        )
        if is_needed and name not in arguments:
            raise WorkloadError(
                f"{where}: its argument '{name}' is missing; give --arg {name}=VALUE"
            )


def _refuse_options(options: SourceOptions, origin: str) -> None:
    _refuse_data(options, origin)
    _refuse_arguments(options, origin)


def _refuse_data(options: SourceOptions, origin: str) -> None:
    if options.data is not None or options.labels is not None:
        raise WorkloadError(
            f"{origin}: --data and --labels go with a model file; a workload names its own data"
        )


def _refuse_arguments(options: SourceOptions, origin: str) -> None:
    if options.arguments:
        raise WorkloadError(f"{origin}: --arg goes with a Python file, whose function it calls")


def _digest(path: Path) -> str:
    if path.is_file():
        return hashlib.sha256(path.read_bytes()).hexdigest()
    content = hashlib.sha256()
    for file in sorted(item for item in path.rglob("*") if item.is_file()):
        content.update(f"{file.relative_to(path)}\n{_digest(file)}\n".encode())
    return content.hexdigest()
