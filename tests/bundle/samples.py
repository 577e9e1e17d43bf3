"""A small bundle that is whole, made by hand: what the tests then break."""

import hashlib
from dataclasses import replace
from pathlib import Path

from edgekit.bundle.documents import encode_evidence
from edgekit.bundle.manifest import (
    SCHEMA,
    Component,
    Evidence,
    Golden,
    Host,
    Lineage,
    Manifest,
    StageRecord,
)
from edgekit.core.artifact import Artifact, Binding, FileEntry
from edgekit.core.contract import Contract, InputContract, Output, OutputContract, Tensor
from edgekit.core.figure import Figure, Place, Provenance, exact
from edgekit.core.strategy import PlannedStep, Strategy
from edgekit.core.verdict import EvidenceKind, Limit, Sense, deliver_verdict

FILES = {
    "model/model.tflite": b"\x1c\x00\x00\x00TFL3" + bytes(range(64)),
    "golden/inputs/x.npy": b"\x93NUMPY-inputs",
    "golden/outputs/y.npy": b"\x93NUMPY-outputs",
    "MODEL_CARD.md": b"# A model\n",
}
LIMITS = (
    Limit(
        figure="artifact_bytes",
        sense=Sense.AT_MOST,
        bound=1000.0,
        unit="bytes",
        accepts=(EvidenceKind.HOST,),
    ),
    Limit(
        figure="latency_ratio",
        sense=Sense.AT_MOST,
        bound=1.0,
        unit="",
        accepts=(EvidenceKind.HOST, EvidenceKind.DEVICE),
    ),
)
PENDING = Limit(
    figure="flash_bytes",
    sense=Sense.AT_MOST,
    bound=5e5,
    unit="bytes",
    accepts=(EvidenceKind.EMULATOR, EvidenceKind.DEVICE),
)


def contract() -> Contract:
    """One input x (1, 4) and one output y (1, 2)."""
    return Contract(
        inputs=(InputContract(name="x", dtype="float32", shape=(1, 4), source=Tensor(shape=(4,))),),
        outputs=(
            OutputContract(
                name="y", dtype="float32", shape=(1, 2), meaning=Output(labels=("no", "yes"))
            ),
        ),
    )


def manifest(**changes: object) -> Manifest:
    """A manifest without files, as a build hands it to sealing."""
    artifact = Artifact(
        format="tflite",
        runtime="litert",
        entry="model/model.tflite",
        precision="int8",
        inputs=(Binding(name="x", position=0),),
        outputs=(Binding(name="y", position=0),),
    )
    plain = Manifest(
        schema=SCHEMA,
        name="sample",
        device="phone",
        target="litert",
        components=(Component(name="main", artifact=artifact, contract=contract()),),
        files=(),
        golden=Golden(
            samples=2,
            inputs={"x": "golden/inputs/x.npy"},
            outputs={"y": "golden/outputs/y.npy"},
            tolerance={"y": 1e-3},
        ),
        lineage=Lineage(
            model="a" * 64,
            source="b" * 64,
            calibration="c" * 64,
            evaluation="d" * 64,
            stages=(StageRecord(name="export", key="e" * 64, output="f" * 64),),
        ),
        strategy=Strategy(
            steps=(
                PlannedStep(
                    name="quantize", is_run=True, reason="the profile", settings={"bits": 8}
                ),
            )
        ),
        limits=LIMITS,
        waived=(),
        seed=0,
        effort="quick",
        metric="top-1",
        versions={"edgekit": "0.1.0"},
        toolchain="main",
        minimum_runtime={"ai-edge-litert": "2.1.0"},
    )
    return replace(plain, **changes)


def figures() -> tuple[Figure, ...]:
    """Measured figures that pass both limits."""
    ratio = Figure(
        name="latency_ratio",
        value=0.5,
        unit="",
        provenance=Provenance.MEASURED,
        place=Place.HOST,
        how="100 pairs",
        low=0.45,
        high=0.55,
        confidence=0.95,
        samples=100,
    )
    return (exact("artifact_bytes", 72.0, "bytes", "size of the file"), ratio)


def evidence(made: Manifest, bundle_id: str, **changes: object) -> Evidence:
    """Evidence whose verdict is what its figures say."""
    verdict = deliver_verdict(
        made.limits, {item.name: item for item in figures()}, waived=made.waived
    )
    plain = Evidence(
        schema=SCHEMA,
        bundle_id=bundle_id,
        host=Host(
            system="Linux",
            machine="x86_64",
            processor="test",
            cores=2,
            ram_bytes=1 << 30,
            features=("avx2",),
        ),
        figures=figures(),
        verdict=verdict,
    )
    return replace(plain, **changes)


def listed(made: Manifest, files: dict[str, bytes]) -> Manifest:
    """The manifest with its list of files, hashed here and not by edgekit."""
    entries = tuple(
        FileEntry(path=path, bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
        for path, data in sorted(files.items())
    )
    return replace(made, files=entries)


def contents(made: Manifest | None = None, **changes: object) -> dict[str, bytes]:
    """All files of a whole bundle, documents included, in memory."""
    full = listed(made or manifest(), FILES)
    return {
        **FILES,
        "manifest.json": full.encode(),
        "evidence.json": encode_evidence(evidence(full, full.bundle_id, **changes)),
    }


def write(folder: Path, files: dict[str, bytes]) -> Path:
    """The files as a folder."""
    for path, data in files.items():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
    return folder
