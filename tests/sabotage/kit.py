"""What a fault is tried on: honest bundles, and builds with one part replaced."""

import hashlib
import shutil
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import pytest

import edgekit
from edgekit.bundle.documents import (
    decode_evidence,
    decode_manifest,
    encode_evidence,
)
from edgekit.bundle.manifest import Evidence, Manifest
from edgekit.core.errors import EdgekitError
from edgekit.core.figure import Figure
from edgekit.flow import planning
from edgekit.flow.stages import Runner
from edgekit.measure import latency, memory
from tests.flow.tiny import workload_of_two

# What these tests are not about: on a busy machine a tiny network has no ratio worth a limit.
ANY_LATENCY = {"latency_ratio": 1000.0}


class Kit:
    """Honest results to spoil; all builds share one cache."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._count = 0

    def new(self, name: str = "item") -> Path:
        """A path that does not exist yet."""
        self._count += 1
        return self.folder / f"{name}-{self._count}"

    @cached_property
    def phone(self) -> Path:
        """An honest LiteRT bundle, proven but for what a busy host cannot tell."""
        return self.honest("phone")

    @cached_property
    def server(self) -> Path:
        """An honest ONNX bundle."""
        return self.honest("edge-server")

    @cached_property
    def board(self) -> Path:
        """An honest candidate: flash and RAM are pending."""
        return self.honest("embedded", limits={"metric_drop": 100.0})

    @cached_property
    def waived(self) -> Path:
        """A candidate whose missed limit was waived by name."""
        return self.honest("phone", limits={"latency_ratio": 1e-6}, allow=("latency_ratio",))

    def honest(self, device: str, **options) -> Path:
        """A bundle that nobody tampered with."""
        given = {"limits": _limits(device), **options}
        return edgekit.build(workload_of_two(), device=device, out=self.new(device), **given).bundle

    def copy(self, bundle: Path) -> Path:
        """A bundle to tamper with."""
        return Path(shutil.copytree(bundle, self.new("copy")))

    def build(self, device: str, quantize: str = "", *, workload=None, **options):
        """A build in this process, with ``quantize`` of ``handlers`` in the step's place."""
        given = {"limits": _limits(device), **options}
        out = self.new(device)
        with sabotaged(quantize):
            return edgekit.build(workload or workload_of_two(), device=device, out=out, **given)

    def refuses(self, error: type[EdgekitError], match: str, *build, **options) -> EdgekitError:
        """The error of a build, after it was found to say why and to have written nothing."""
        with pytest.raises(error, match=match) as caught:
            self.build(*build, **options)
        left = [item.name for item in self.folder.iterdir() if f"-{self._count}" in item.name]
        assert left == [], "a build that is refused writes nothing"
        return caught.value


def _limits(device: str) -> dict[str, float]:
    return {} if device == "embedded" else ANY_LATENCY


@contextmanager
def sabotaged(quantize: str):
    """All stages in this process, short measurements, and another quantizer if one is named."""
    honest_compiler, honest_run = planning.compiler_of, Runner.run

    def compiler_of(target):
        steps = {"quantize": f"tests.sabotage.handlers:{quantize}"}
        return replace(honest_compiler(target), steps=steps)

    def run(self, request, *, place="here", toolchain=None, is_cached=True):
        return honest_run(self, request, place="here", toolchain=toolchain, is_cached=is_cached)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Runner, "run", run)
        patch.setattr(memory, "REPEATS", 1)
        patch.setattr(latency, "MINIMUM_PAIRS", 30)
        patch.setattr(latency, "WARM_UP_S", 0.05)
        if quantize:
            patch.setattr(planning, "compiler_of", compiler_of)
        yield


def forge_evidence(bundle: Path, change: Callable[[Evidence], Evidence]) -> None:
    """Change the evidence of a bundle and put its checksum right."""
    path = bundle / "evidence.json"
    path.write_bytes(encode_evidence(change(decode_evidence(path.read_bytes()))))


def forge_manifest(bundle: Path, change: Callable[[Manifest], Manifest]) -> None:
    """Change the manifest of a bundle, and make its evidence name the new bundle_id."""
    path = bundle / "manifest.json"
    made = change(decode_manifest(path.read_bytes()))
    path.write_bytes(made.encode())
    forge_evidence(bundle, lambda evidence: replace(evidence, bundle_id=made.bundle_id))


def replace_file(bundle: Path, name: str, content: bytes) -> None:
    """Another file in a bundle, with size, hash, bundle_id and checksums put right."""
    (bundle / name).write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()

    def change(manifest: Manifest) -> Manifest:
        files = tuple(
            replace(item, bytes=len(content), sha256=digest) if item.path == name else item
            for item in manifest.files
        )
        return replace(manifest, files=files)

    forge_manifest(bundle, change)


def with_figure(evidence: Evidence, name: str, **changes) -> Evidence:
    """Evidence in which one figure says something else; added where there was none."""
    kept = [item for item in evidence.figures if item.name != name]
    old = next((item for item in evidence.figures if item.name == name), None)
    made = Figure(name=name, **changes) if old is None else replace(old, **changes)
    return replace(evidence, figures=(*kept, made))
