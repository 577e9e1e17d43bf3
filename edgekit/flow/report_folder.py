"""The folder beside a bundle that keeps what does not ship: tensor map, stages, largest layers."""

import json
from pathlib import Path

from edgekit.core.codec import canonical_json
from edgekit.flow.making import Products
from edgekit.flow.results import BuildResult
from edgekit.store import atomic_write


def report_path(out: Path) -> Path:
    """Where the report of a bundle goes: beside it, so that the bundle stays what is sealed."""
    return out.with_name(out.name + ".build")


def write_report(out: Path, result: BuildResult, products: Products) -> Path:
    """Write the build's report and its map from tensor to module path; an older one is replaced.

    Each file appears whole or not at all.
    Raises: OutputError when the folder cannot be written.
    """
    folder = report_path(out)
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
                "advice": result.advice,
                "audit": result.evidence.audit,
                "notes": result.evidence.notes,
            }
        ),
    )
    return folder
