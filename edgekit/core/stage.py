"""What a stage of a build is: a request that can be serialized and a handler that answers it.

A handler is named by a string, so a request can be run here, in another process or in another
environment. It reads its inputs from folders, writes its files into ``out`` and returns plain
values. The same request gives the same files.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from edgekit.core.errors import MissingDependencyError
from edgekit.core.progress import Reporter


@dataclass(frozen=True, slots=True, kw_only=True)
class StageRequest:
    """One piece of work.

    handler: ``package.module:function``. settings: plain values. inputs: folders of earlier
    results by role; digests: what those folders hold, by the same roles. seed: for all that is
    drawn at random.
    """

    name: str
    handler: str
    settings: dict[str, Any] = field(default_factory=dict)
    inputs: dict[str, str] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)
    seed: int = 0

    def folder(self, role: str) -> Path:
        """The folder of one input."""
        return Path(self.inputs[role])


Handler = Callable[[StageRequest, Path, Reporter], Mapping[str, Any]]


def resolve_handler(name: str) -> Handler:
    """The function behind ``package.module:function``.

    Raises: MissingDependencyError when its module needs a library that is not installed.
    """
    module_name, _, function_name = name.partition(":")
    try:
        module = import_module(module_name)
    except ModuleNotFoundError as missing:
        raise MissingDependencyError(
            f"{name} needs the Python package '{missing.name}', which is not installed; "
            "`edgekit doctor` prints the command that brings it"
        ) from missing
    handler: Handler = getattr(module, function_name)
    return handler
