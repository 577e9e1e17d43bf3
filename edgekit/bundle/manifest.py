"""The two documents of a bundle: the manifest (what it is) and the evidence (how it did).

``manifest.json`` holds only what is the same on every machine; sha256 of its bytes is the
``bundle_id``. ``evidence.json`` holds timed and machine-bound figures, the host and the verdict,
names the ``bundle_id`` and carries a checksum of itself. Both are canonical JSON.
"""

import hashlib
from dataclasses import dataclass, field

from edgekit.core.artifact import Artifact, FileEntry
from edgekit.core.codec import canonical_json
from edgekit.core.contract import Contract
from edgekit.core.figure import Figure
from edgekit.core.planned import Strategy
from edgekit.core.verdict import Limit, Verdict

SCHEMA = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Component:
    """One model of a bundle: its artifact and its contract."""

    name: str
    artifact: Artifact
    contract: Contract


@dataclass(frozen=True, slots=True, kw_only=True)
class StageRecord:
    """One stage of the build: the digest of all that went in, and of all that came out."""

    name: str
    key: str
    output: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Lineage:
    """Where a bundle comes from, by sha256.

    model: graph and weights. source: the workload's file, or the model file. calibration,
    evaluation, selection, training, unlabelled: the samples in order ("" for a set that there is
    none of, or that no step learned from). files: the profile's and the target's TOML by their path
    in the catalog. stages: in order of work.
    """

    model: str
    source: str
    calibration: str
    evaluation: str
    selection: str = ""
    training: str = ""
    unlabelled: str = ""
    files: dict[str, str] = field(default_factory=dict)
    stages: tuple[StageRecord, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRecord:
    """What the model was after one step, in counts that are the same everywhere.

    bytes: of the float weights after a step on the module, of the file as it would ship after a
    step on the graph.
    parameters, macs: steps on the graph leave them as they were.
    """

    name: str
    bytes: int
    parameters: int = 0
    macs: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Golden:
    """Inputs and outputs for a self-test on the device.

    inputs, outputs: contract name to a .npy file in the bundle, samples on the first axis.
    tolerance: the largest absolute difference that counts as equal, an output each. adapters: of
    each sample, "none" for the model without one; absent where there is nothing to choose.
    """

    samples: int
    inputs: dict[str, str]
    outputs: dict[str, str]
    tolerance: dict[str, float]
    adapters: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """Everything about a bundle that is the same on every machine."""

    schema: int
    name: str
    device: str
    target: str
    components: tuple[Component, ...]
    files: tuple[FileEntry, ...]
    golden: Golden
    lineage: Lineage
    strategy: Strategy
    limits: tuple[Limit, ...]
    waived: tuple[str, ...]
    seed: int
    effort: str
    metric: str
    versions: dict[str, str]
    toolchain: str
    minimum_runtime: dict[str, str]
    steps: tuple[StepRecord, ...] = ()
    anti_patterns: tuple[str, ...] = ()
    license: str = ""
    description: str = ""

    def encode(self) -> bytes:
        """The bytes of ``manifest.json``."""
        return canonical_json(self)

    @property
    def bundle_id(self) -> str:
        """sha256 of ``manifest.json``."""
        return hashlib.sha256(self.encode()).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """The machine that measured: enough to judge its figures by, and no names or paths."""

    system: str
    machine: str
    processor: str
    cores: int
    ram_bytes: int
    features: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class StepFigures:
    """What the model was after one step, as it was measured, and how long the step took."""

    name: str
    figures: tuple[Figure, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """Figures of one bundle on one machine, and what they were judged to mean.

    steps: the float model, and what it was after each step, in order. audit: a line for everything
    that is not what the strategy asked, or is run otherwise than it is stored. notes: what was said
    aloud in the build.
    """

    schema: int
    bundle_id: str
    host: Host
    figures: tuple[Figure, ...]
    verdict: Verdict
    audit: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    created: str = ""
    steps: tuple[StepFigures, ...] = ()
