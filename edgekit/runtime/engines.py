"""Finds the engine that a bundle names, edgekit's own or a plug-in's, and loads the model in it."""

from importlib import import_module
from typing import TYPE_CHECKING, cast

from edgekit.core.codec import nearest
from edgekit.core.errors import MissingDependencyError, SessionError
from edgekit.runtime.engine import Engine

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

GROUP = "edgekit.runtimes"
# These names are taken: what else is installed on a device cannot keep their bundles from opening,
# and no search through every installed package delays them.
OWN_ENGINES = {
    "litert": "edgekit.runtime.litert:LiteRtEngine",
    "onnx": "edgekit.runtime.onnx:OnnxEngine",
}


def open_engine(runtime: str, model: bytes, *, threads: int = 1) -> Engine:
    """The engine called ``runtime``, with exactly these bytes loaded.

    Raises: SessionError for an unknown name or bytes that the engine refuses;
    MissingDependencyError when the engine's library is not installed.
    """
    return load_engine(runtime)(model, threads=threads)


def load_engine(runtime: str) -> type[Engine]:
    """The engine of a name: one of edgekit's own, or a plug-in's from ``edgekit.runtimes``.

    Raises: SessionError, MissingDependencyError.
    """
    if runtime in OWN_ENGINES:
        module, _, name = OWN_ENGINES[runtime].partition(":")
        return cast(type[Engine], getattr(import_module(module), name))
    return _load_plug_in(runtime)


def _load_plug_in(runtime: str) -> type[Engine]:
    # Imported here: with what it brings along it takes a third of an engine's own import.
    from importlib import metadata  # noqa: PLC0415

    # By what they point at: a package that is on the path twice is still one plug-in.
    found = {item.value: item for item in metadata.entry_points(group=GROUP, name=runtime)}
    if len(found) > 1:
        names = " and ".join(sorted(f"{item.value} ({_origin(item)})" for item in found.values()))
        raise SessionError(f"two runtimes are called '{runtime}': {names}; uninstall one")
    if not found:
        known = {*OWN_ENGINES, *(item.name for item in metadata.entry_points(group=GROUP))}
        raise SessionError(f"no runtime is called '{runtime}'{nearest(runtime, sorted(known))}")
    (entry,) = found.values()
    try:
        return cast(type[Engine], entry.load())
    except ImportError as missing:
        raise MissingDependencyError(
            f"the runtime '{runtime}' ({entry.value}) cannot be imported: {missing}"
        ) from missing
    except AttributeError as missing:
        raise SessionError(
            f"the runtime '{runtime}' points at '{entry.value}', which does not exist"
        ) from missing


def _origin(entry: "EntryPoint") -> str:
    return "unknown package" if entry.dist is None else f"package {entry.dist.name}"
