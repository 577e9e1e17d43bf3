"""Models on disk, opened without running what is in them: ``.pt2`` programs and checkpoints.

``torch.export.load`` unpickles freely, looks up operators by any dotted path below ``torch`` and
evaluates shape expressions. So an archive is looked through first, and refused where it holds
more than tensors and a graph of plain operators.
"""

import ast
import io
import json
import logging
import pickle
import re
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram

from edgekit.core.errors import MissingDependencyError, WorkloadError

PROGRAM = "model.pt2"

_MEMBERS = re.compile(
    r"archive_format|archive_version|byteorder|version|\.format_version|\.data/\w+"
    r"|models/\w+\.json|data/weights/\w+|data/weights/\w+_config\.json"
    r"|data/constants/tensor_\w+|data/constants/\w+_config\.json"
    r"|data/sample_inputs/\w+\.pt|extra/[\w./-]+"
)
_TARGETS = re.compile(
    r"torch\.ops\.(aten|prims|quantized_decomposed|torchvision|torchao)\._?[a-z]\w*(\.\w+)?"
    r"|torch\.ops\.aten\.__(and|or|xor|lshift|rshift)__(\.\w+)?"
    r"|torch\.ops\.higher_order\.(cond|while_loop|scan|map_impl|wrap_with_set_grad_enabled"
    r"|wrap_with_autocast)"
    r"|torch\._?sym_\w+"
    r"|_operator\.(getitem|add|sub|mul|floordiv|truediv|mod|pow|neg|eq|ne|lt|le|gt|ge|and_|or_|not_)"
    r"|math\.(ceil|floor|trunc|sqrt)"
)
# Operators of aten that reach outside of the graph.
_OUTSIDE = re.compile(r"torch\.ops\.aten\.(from_file|_print|save)\b.*")
# What a shape may be built of; torch writes them as sympy's srepr and evaluates them on loading.
_FUNCTIONS = re.compile(
    "Symbol|Integer|Rational|Float|Add|Mul|Pow|Abs|Mod|Max|Min|FloorDiv|CleanDiv|ModularIndexing"
    "|PythonMod|CeilDiv|CeilToInt|FloorToInt|TruncToInt|RoundToInt|TrueDiv|IntTrueDiv|FloatTrueDiv"
    "|ToFloat|PowByNatural|FloatPow|Where|Eq|Ne|Lt|Le|Gt|Ge|And|Or|Not|Equality|Unequality"
    "|StrictLessThan|LessThan|StrictGreaterThan|GreaterThan|oo|int_oo"
)
_SYMBOL = re.compile(r"[a-z]+\d+")
_PLAIN_NODES = (
    ast.Expression,
    ast.Call,
    ast.keyword,
    ast.Name,
    ast.Constant,
    ast.BinOp,
    ast.UnaryOp,
    ast.Compare,
    ast.operator,
    ast.unaryop,
    ast.cmpop,
    ast.expr_context,
)
_NAME = re.compile(r"[A-Za-z_]\w*")
MAX_EXPRESSION_CHARACTERS = 2000


def save_program(program: ExportedProgram, path: Path) -> None:
    """Write a program without the paths of the source files that it was traced from."""
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)
    # Torch's own writer ends the process where the disk is full; Python's raises an error.
    archive = io.BytesIO()
    torch.export.save(program, archive)
    path.write_bytes(archive.getbuffer())


def load_program(path: Path) -> ExportedProgram:
    """The exported program in a ``.pt2`` file, after the archive was looked through.

    Raises: WorkloadError when it is missing, corrupt, or holds anything that runs on loading.
    """
    _check_archive(path)
    logger = logging.getLogger("torch.export")
    level = logger.level
    # What goes wrong is told by the error; the library would also print the whole trace.
    logger.setLevel(logging.CRITICAL)
    try:
        return torch.export.load(path)
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError, AssertionError) as error:
        raise WorkloadError(
            f"{path.name}: torch {torch.__version__} cannot load this program ({_first(error)}); "
            "save it again with torch.export.save and this version of torch"
        ) from error
    finally:
        logger.setLevel(level)


def load_state(path: str | Path) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint by name; one level of ``state_dict`` is looked into.

    safetensors files hold nothing but tensors; others are unpickled with ``weights_only``.
    Raises: WorkloadError when the file is corrupt, hostile, or holds no tensors by name.
    """
    path = Path(path)
    content = _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path)
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    is_state = isinstance(content, dict) and all(
        isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in content.items()
    )
    if not is_state or not content:
        raise WorkloadError(
            f"{path.name}: it holds a {type(content).__name__}, not tensors by name; save "
            "model.state_dict()"
        )
    return dict(content)


def _read_safetensors(path: Path) -> Any:
    try:
        from safetensors import SafetensorError  # noqa: PLC0415
        from safetensors.torch import load_file  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            f"{path.name} needs the package 'safetensors': pip install 'edgekit[safetensors]'"
        ) from error
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise WorkloadError(
            f"{path.name}: no readable safetensors file: {_first(error)}"
        ) from error


def _read_pickle(path: Path) -> Any:
    try:
        return _load_tensors(path)
    except pickle.UnpicklingError as error:
        raise WorkloadError(
            f"{path.name}: refused, because loading it would run code that the file names "
            f"({_unsafe_name(error)}); a checkpoint may hold tensors only: save "
            "model.state_dict(), best as .safetensors"
        ) from error
    except (OSError, RuntimeError, EOFError, ValueError) as error:
        raise WorkloadError(f"{path.name}: no readable checkpoint: {_first(error)}") from error


def _load_tensors(source: Path | io.BytesIO) -> Any:
    with warnings.catch_warnings():
        # It warns of every pickle protocol but its own and reads them all the same.
        warnings.simplefilter("ignore")
        return torch.load(source, map_location="cpu", weights_only=True)


def _check_archive(path: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            members = {_below_root(info, path): info for info in archive.infolist()}
            for name, info in members.items():
                _check_member(name, info, path)
            for name, info in members.items():
                if name.startswith("models/"):
                    _check_graph(_json(archive, info, path), path)
                elif name.endswith("_config.json"):
                    _check_payloads(_json(archive, info, path), name, archive, members, path)
                elif name.startswith("data/sample_inputs/"):
                    _check_pickle(archive.read(info), name, path)
    except OSError as error:
        raise WorkloadError(f"{path}: {error.strerror}") from error
    except (zipfile.BadZipFile, EOFError) as error:
        raise WorkloadError(
            f"{path.name}: no .pt2 archive ({error}); save the model with torch.export.save"
        ) from error


def _below_root(info: zipfile.ZipInfo, path: Path) -> str:
    root, slash, name = info.filename.partition("/")
    if not slash or root in ("", ".", ".."):
        raise _refusal(path, f"it holds '{info.filename}' outside of the archive's folder")
    return name


def _check_member(name: str, info: zipfile.ZipInfo, path: Path) -> None:
    if not _MEMBERS.fullmatch(name) or ".." in name:
        raise _refusal(path, f"it holds '{name}', which is neither a graph nor a tensor")
    if info.compress_type != zipfile.ZIP_STORED:
        raise _refusal(path, f"'{name}' is compressed, which torch.export.save never does")


def _json(archive: zipfile.ZipFile, info: zipfile.ZipInfo, path: Path) -> Any:
    try:
        return json.loads(archive.read(info))
    except (ValueError, RecursionError) as error:
        raise WorkloadError(f"{path.name}: '{info.filename}' is not JSON: {error}") from error


def _check_payloads(
    plain: Any,
    name: str,
    archive: zipfile.ZipFile,
    members: dict[str, zipfile.ZipInfo],
    path: Path,
) -> None:
    entries = plain.get("config", {}) if isinstance(plain, dict) else {}
    folder = name.rpartition("/")[0]
    for entry in entries.values() if isinstance(entries, dict) else ():
        member = f"{folder}/{entry.get('path_name') if isinstance(entry, dict) else None}"
        if member not in members:
            raise WorkloadError(f"{path.name}: '{name}' names '{member}', which is not there")
        if entry.get("use_pickle"):
            _check_pickle(archive.read(members[member]), member, path)


def _check_pickle(content: bytes, name: str, path: Path) -> None:
    if not content:
        return
    try:
        _load_tensors(io.BytesIO(content))
    except pickle.UnpicklingError as error:
        raise _refusal(path, f"'{name}' is a pickle that runs {_unsafe_name(error)}") from error
    except (RuntimeError, EOFError, ValueError) as error:
        raise WorkloadError(f"{path.name}: '{name}' cannot be read: {_first(error)}") from error


def _check_graph(plain: Any, path: Path) -> None:
    for key, value in _strings(plain):
        if key == "target" and (not _TARGETS.fullmatch(value) or _OUTSIDE.fullmatch(value)):
            raise _refusal(path, f"its graph calls '{value[:80]}', which is no plain operator")
        if key == "expr_str" and not _is_plain_expression(value):
            raise _refusal(path, f"it holds the shape '{value[:80]}', which is no arithmetic")
        if key == "name" and not _NAME.fullmatch(value):
            raise _refusal(path, f"it holds the name '{value[:80]}', which is no identifier")
        if key in ("in_spec", "out_spec") and re.search(r"__enum__|defaultdict", value):
            raise _refusal(path, "its inputs or outputs are of a type that imports modules")


def _is_plain_expression(text: str) -> bool:
    if len(text) > MAX_EXPRESSION_CHARACTERS:
        return False
    try:
        nodes = tuple(ast.walk(ast.parse(text.strip(), mode="eval")))
    except (SyntaxError, ValueError, RecursionError):
        return False
    return all(_is_plain_node(node) for node in nodes)


def _is_plain_node(node: ast.AST) -> bool:
    if isinstance(node, ast.Name):
        return any(form.fullmatch(node.id) for form in (_FUNCTIONS, _SYMBOL))
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return _SYMBOL.fullmatch(node.value) is not None
    return isinstance(node, _PLAIN_NODES)


def _strings(plain: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Every string below, with the key that it stands under; keys are strings of their own."""
    waiting: list[tuple[str, Any]] = [(key, plain)]
    while waiting:
        key, value = waiting.pop()
        if isinstance(value, str):
            yield key, value
        elif isinstance(value, dict):
            waiting.extend(value.items())
            if key == "range_constraints":
                yield from (("expr_str", item) for item in value)
        elif isinstance(value, list):
            waiting.extend((key, item) for item in value)


def _refusal(path: Path, what: str) -> WorkloadError:
    return WorkloadError(
        f"{path.name}: refused, {what}; hand over a file that torch.export.save wrote, or the "
        "module itself"
    )


def _unsafe_name(error: Exception) -> str:
    found = re.search(r"GLOBAL ([\w.]+)|unsupported (?:class|global)[: ]+([\w.]+)", str(error))
    return next((name for name in found.groups() if name), "code") if found else "code"


def _first(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
