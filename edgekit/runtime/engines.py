"""Finds the engine that a bundle names among the installed plug-ins and loads the model in it."""

from typing import TYPE_CHECKING, cast

from edgekit.core.codec import nearest
from edgekit.core.errors import MissingDependencyError, SessionError
from edgekit.runtime.engine import Engine

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

GROUP = "edgekit.runtimes"


def open_engine(runtime: str, model: bytes, *, threads: int = 1) -> Engine:
    """The engine registered as ``runtime``, with exactly these bytes loaded.

    Raises: SessionError for an unknown name or bytes that the engine refuses;
    MissingDependencyError when the engine's library is not installed.
    """
    return load_engine(runtime)(model, threads=threads)


def load_engine(runtime: str) -> type[Engine]:
    """The class registered under a name in the entry points ``edgekit.runtimes``.

    Raises: SessionError, MissingDependencyError.
    """
    # Imported here: it costs a fifth of all that importing the runtime may cost.
    from importlib import metadata  # noqa: PLC0415

    # By what they point at: a package that is on the path twice is still one plug-in.
    found = {item.value: item for item in metadata.entry_points(group=GROUP, name=runtime)}
    if len(found) > 1:
        names = " and ".join(sorted(f"{item.value} ({_origin(item)})" for item in found.values()))
        raise SessionError(f"two runtimes are called '{runtime}': {names}; uninstall one")
    if not found:
        known = sorted({item.name for item in metadata.entry_points(group=GROUP)})
        raise SessionError(f"no runtime is called '{runtime}'{nearest(runtime, known)}")
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
