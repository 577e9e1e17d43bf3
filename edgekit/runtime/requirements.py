"""Whether the installed engines are as new as a bundle needs them."""

import re
from collections.abc import Mapping
from importlib import import_module

from edgekit.core.errors import MissingDependencyError, SessionError

# The packages of edgekit's own engines: the module that tells the version, and the extra that
# brings it. The session imports that module next, so asking it costs nothing.
_OWN = {
    "ai-edge-litert": ("ai_edge_litert", "litert-runtime"),
    "onnxruntime": ("onnxruntime", "onnx-runtime"),
}
_VERSION = re.compile(r"(\d+(?:\.\d+)*)(.*)")


def check_minimum_versions(minimum: Mapping[str, str]) -> None:
    """Compare every package with its minimum version.

    Raises: MissingDependencyError for one that is not installed, SessionError for an older one,
    with the version found.
    """
    for package, wanted in minimum.items():
        try:
            found = _installed_version(package)
        except ImportError as missing:
            raise MissingDependencyError(
                f"the bundle needs {package} {wanted} or newer, which is not there ({missing}): "
                f"{install_command(package)}"
            ) from missing
        if version_key(found) < version_key(wanted):
            raise SessionError(
                f"the bundle needs {package} {wanted} or newer; {found} is installed: "
                f"pip install --upgrade '{package}>={wanted}'"
            )


def _installed_version(package: str) -> str:
    if package in _OWN:
        return str(import_module(_OWN[package][0]).__version__)
    # Imported here: with what it brings along it takes a third of an engine's own import.
    from importlib import metadata  # noqa: PLC0415

    return metadata.version(package)


def install_command(package: str) -> str:
    """What to type to install a package that runs artifacts."""
    name = f"edgekit[{_OWN[package][1]}]" if package in _OWN else package
    return f"pip install '{name}'"


def version_key(version: str) -> tuple[tuple[int, ...], int]:
    """Something that sorts as versions do; a pre-release comes before its release (PEP 440).

    Raises: SessionError for a text that is no version.
    """
    match = _VERSION.fullmatch(version)
    if match is None:
        raise SessionError(f"'{version}' is no version; write it as 2.1.0")
    numbers = [int(part) for part in match.group(1).split(".")]
    while numbers and numbers[-1] == 0:
        numbers.pop()
    is_early = re.match(r"[._-]?(a|b|c|rc|alpha|beta|dev|pre)", match.group(2)) is not None
    return tuple(numbers), 0 if is_early else 1
