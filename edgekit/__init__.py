"""edgekit: from a trained PyTorch model to a device bundle that is proven to fit.

The names below are all that a user needs; each is imported when it is first asked for, so that
``import edgekit`` costs nothing on a device that only runs bundles.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "Audio": "edgekit.core.contract",
    "Image": "edgekit.core.contract",
    "Output": "edgekit.core.contract",
    "Tensor": "edgekit.core.contract",
    "Text": "edgekit.core.contract",
    "EdgekitError": "edgekit.core.errors",
    "Workload": "edgekit.core.workload",
    "build": "edgekit.flow.api",
    "compare": "edgekit.flow.api",
    "debug": "edgekit.flow.api",
    "fit": "edgekit.flow.api",
    "load_state": "edgekit.compile.program",
    "plan": "edgekit.flow.api",
    "open": "edgekit.runtime",
    "sensitivity": "edgekit.flow.api",
    "verify": "edgekit.runtime",
}

if TYPE_CHECKING:
    from edgekit.compile.program import load_state
    from edgekit.core.contract import Audio, Image, Output, Tensor, Text
    from edgekit.core.errors import EdgekitError
    from edgekit.core.workload import Workload
    from edgekit.flow.api import build, compare, debug, fit, plan, sensitivity
    from edgekit.runtime import open, verify  # noqa: A004 -- `edgekit.open` reads as it should

__all__ = [
    "Audio",
    "EdgekitError",
    "Image",
    "Output",
    "Tensor",
    "Text",
    "Workload",
    "build",
    "compare",
    "debug",
    "fit",
    "load_state",
    "open",
    "plan",
    "sensitivity",
    "verify",
]


class _Package(ModuleType):
    """Keeps the import system from putting the room ``plan`` in the place of the function."""

    def __setattr__(self, name: str, value: object) -> None:
        """Set an attribute, unless it is a room with the name of a public function."""
        if not (name in _HOMES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:
    """Import a public name from where it lives."""
    if name not in _HOMES:
        raise AttributeError(f"module 'edgekit' has no attribute '{name}'")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    """The public names."""
    return [*__all__, "__version__"]
