"""Opens a bundle, verifies it and runs it; this is what ships.

``session`` runs arrays and raw samples through a bundle · ``ports`` checks one tensor each way,
``scaling`` converts it · ``adapters`` holds those to choose from · ``prediction`` makes labels of
scores · ``golden`` is the self-test · ``engine`` is the protocol of what runs an artifact,
``engines`` finds it, ``litert`` and ``onnx`` are two · ``requirements`` checks the installed
versions. To add an engine, write a class with the protocol and register it under the entry points
``edgekit.runtimes``, under another name than those two.

What a name needs is imported when the name is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from edgekit.bundle.verify import Requirement, VerifiedBundle
    from edgekit.runtime.golden import SelfTest
    from edgekit.runtime.prediction import Prediction
    from edgekit.runtime.session import TensorSession

__all__ = ["Prediction", "SelfTest", "TensorSession", "open", "verify"]

_HOMES = {
    "Prediction": "edgekit.runtime.prediction",
    "SelfTest": "edgekit.runtime.golden",
    "TensorSession": "edgekit.runtime.session",
}


def open(  # noqa: A001 -- `edgekit.open(bundle)` reads as it should
    bundle: "Path | str",
    *,
    require: "Requirement | None" = None,
    threads: int | None = None,
    component: str = "",
    adapter: str = "none",
) -> "TensorSession":
    """A session on a bundle, a folder or a zip, after all of it was verified.

    require: "proven" refuses a bundle with pending or waived limits. threads: 1 unless said.
    component: its name, where a bundle has several. adapter: of calls that name none; "none" is the
    model without any.
    Raises: BundleError, SessionError, MissingDependencyError.
    """
    # Imported here, so that an app starts no slower than its engine until it opens a bundle.
    from edgekit.bundle.verify import open_bundle  # noqa: PLC0415
    from edgekit.runtime.session import TensorSession  # noqa: PLC0415

    verified = open_bundle(bundle, require=require)
    return TensorSession(
        verified,
        threads=1 if threads is None else threads,
        component=component,
        adapter=adapter,
    )


def verify(bundle: "Path | str") -> "VerifiedBundle":
    """Everything that can be checked of a bundle, checked, without loading its model.

    Raises: BundleError with the file and what is wrong with it.
    """
    from edgekit.bundle.verify import verify_bundle  # noqa: PLC0415 -- as above

    return verify_bundle(bundle)


def __getattr__(name: str) -> Any:
    """Import a public class from where it lives."""
    if name not in _HOMES:
        raise AttributeError(f"module 'edgekit.runtime' has no attribute '{name}'")
    return getattr(import_module(_HOMES[name]), name)
