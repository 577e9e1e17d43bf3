"""The folder beside a bundle that keeps what does not ship: tensor map, stages, largest layers."""

import json
import os
from pathlib import Path

from edgekit.core.codec import canonical_json
from edgekit.core.errors import OutputError
from edgekit.flow.making import Products
from edgekit.flow.results import BuildResult
from edgekit.store import atomic_write
from edgekit.store.files import writing_to

ADVICE = "move it away, or choose another place for the bundle"


def report_path(out: Path) -> Path:
    """Where the report of a bundle goes: beside it, so that the bundle stays what is sealed."""
    return out.with_name(out.name + ".build")


def check_report(out: Path) -> None:
    """Whether the report of a bundle may be written; ask before long work.

    Raises: OutputError when something else than a folder is in its place.
    """
    folder = report_path(out)
    if os.path.lexists(folder) and not folder.is_dir():
        raise OutputError(f"{folder}: is no folder, and the report goes there; {ADVICE}")


def write_report(out: Path, result: BuildResult, products: Products) -> Path:
    """Write the build's report and its map from tensor to module path; an older one is replaced.

    Each file appears whole or not at all.
    Raises: OutputError when the folder cannot be written.
    """
    folder = report_path(out)
    with writing_to(folder, ADVICE):
        folder.mkdir(exist_ok=True)
    tensors = dict(sorted(products.named.tensor_map().items()))
    atomic_write(folder / "tensor_map.json", json.dumps(tensors, indent=1).encode() + b"\n")
    atomic_write(
        folder / "report.json",
        canonical_json(
            {
                "bundle_id": result.bundle_id,
                "stages": result.stages,
                "largest_layers": result.largest_layers,
                "steps": result.steps,
                "advice": result.advice,
                "audit": result.evidence.audit,
                "notes": result.evidence.notes,
            }
        ),
    )
    return folder
