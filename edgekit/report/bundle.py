"""A bundle in full: what it is (the manifest) and how it did (the evidence)."""

from collections.abc import Iterator

from rich.console import RenderableType
from rich.text import Text

from edgekit.bundle.manifest import Component, Evidence, Host, Manifest
from edgekit.core.units import format_bytes
from edgekit.report.card import meaning_text, processing_text
from edgekit.report.figures import figure_table
from edgekit.report.parts import bullets, pairs, table
from edgekit.report.steps import step_table
from edgekit.report.strategy import strategy_table
from edgekit.report.verdict import VerdictTable, standing_line


def bundle_view(manifest: Manifest, evidence: Evidence) -> Iterator[RenderableType]:
    """Everything about a bundle, the verdict last but for the lineage."""
    yield _about(manifest, evidence)
    for component in manifest.components:
        yield Text()
        yield _contract(component)
    yield strategy_table(manifest.strategy)
    yield bullets("Known weaknesses", manifest.anti_patterns)
    yield Text()
    yield VerdictTable(evidence.verdict)
    yield Text()
    yield standing_line(evidence.verdict)
    yield Text()
    yield figure_table(evidence.figures, title="Figures")
    yield step_table(evidence.steps)
    yield bullets("Audit: not as the strategy asked, or not run as stored", evidence.audit)
    yield bullets("Notes", evidence.notes)
    yield _host(evidence.host, evidence.created)
    yield from _origin(manifest)


def _about(manifest: Manifest, evidence: Evidence) -> RenderableType:
    return pairs(
        [
            ("name", manifest.name),
            ("description", manifest.description),
            ("bundle_id", evidence.bundle_id),
            ("device", manifest.device),
            ("target", manifest.target),
            ("metric", manifest.metric),
            ("effort, seed", f"{manifest.effort}, {manifest.seed}"),
            ("waived", ", ".join(manifest.waived).upper()),
            ("license", manifest.license),
            ("needs at least", _named(manifest.minimum_runtime)),
        ]
    )


def _named(versions: dict[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in sorted(versions.items()))


def _contract(component: Component) -> RenderableType:
    rows = [
        ("in", item.name, f"{item.dtype} {_shape(item.shape)}", processing_text(item.source))
        for item in component.contract.inputs
    ]
    rows += [
        ("out", item.name, f"{item.dtype} {_shape(item.shape)}", meaning_text(item))
        for item in component.contract.outputs
    ]
    artifact = component.artifact
    title = f"{component.name}: {artifact.entry} ({artifact.precision})"
    return table(("", "name", "tensor", "meaning"), rows, title=title)


def _shape(shape: tuple[int | str, ...]) -> str:
    return f"({', '.join(str(size) for size in shape)})"


def _host(host: Host, created: str) -> RenderableType:
    return pairs(
        [
            ("system", f"{host.system} {host.machine}"),
            ("processor", f"{host.processor}, {host.cores} cores"),
            ("RAM", format_bytes(host.ram_bytes)),
            ("features", ", ".join(host.features)),
            ("when", created),
        ],
        title="Measured on",
    )


def _origin(manifest: Manifest) -> Iterator[RenderableType]:
    files = [(item.path, f"{item.bytes:,}", item.sha256) for item in manifest.files]
    yield Text()
    yield table(("file", "bytes", "sha256"), files, title="Files")
    lineage = manifest.lineage
    named = {
        "model": lineage.model,
        "source": lineage.source,
        "calibration": lineage.calibration,
        "evaluation": lineage.evaluation,
        "selection": lineage.selection,
        "training": lineage.training,
        "unlabelled": lineage.unlabelled,
        **lineage.files,
        "toolchain": manifest.toolchain,
    }
    yield pairs(list(named.items()), title="Lineage (sha256)")
    yield pairs(sorted(manifest.versions.items()), title="Made with")
