"""Results of builds, plans and fits, made by hand from the real types."""

from dataclasses import replace
from pathlib import Path

from edgekit.core.facts import LayerFact, ModelFacts, OperatorFact
from edgekit.core.figure import Figure, Place, Provenance, exact, not_evaluated
from edgekit.core.profile import DeviceProfile, Fact, Hardware
from edgekit.core.strategy import PlannedStep, Strategy
from edgekit.core.target import Target, Toolchain
from edgekit.core.verdict import EvidenceKind, Limit, Sense, Verdict, deliver_verdict
from edgekit.flow.results import (
    BuildResult,
    FitLine,
    LayerSize,
    PlanResult,
    StageLine,
    SupportLine,
)
from tests.bundle import samples

HOST = (EvidenceKind.HOST,)
BOARD = (EvidenceKind.EMULATOR, EvidenceKind.DEVICE)


def limit(figure: str, bound: float, unit: str, accepts: tuple[EvidenceKind, ...] = HOST) -> Limit:
    """A figure that may be at most so much."""
    return Limit(figure=figure, sense=Sense.AT_MOST, bound=bound, unit=unit, accepts=accepts)


def sampled(name: str, value: float, low: float, high: float, unit: str) -> Figure:
    """A figure measured here, with an interval."""
    return Figure(
        name=name,
        value=value,
        unit=unit,
        provenance=Provenance.MEASURED,
        place=Place.HOST,
        how="by hand",
        low=low,
        high=high,
        confidence=0.95,
        samples=947,
    )


LIMITS = (
    limit("artifact_bytes", 100e6, "bytes"),
    limit("metric_drop", 1.0, "points"),
    limit("latency_ratio", 1.0, "ratio"),
)
FIGURES = {
    "artifact_bytes": exact("artifact_bytes", 68_432, "bytes", "size of the file"),
    "metric_drop": sampled("metric_drop", 0.1056, -0.21, 0.52, "points"),
    "latency_ratio": sampled("latency_ratio", 0.4123, 0.4011, 0.4302, "ratio"),
}
FLASH = limit("flash_bytes", 1.84e6, "bytes", BOARD)


def proven() -> Verdict:
    """All limits hold."""
    return deliver_verdict(LIMITS, FIGURES)


def candidate() -> Verdict:
    """Flash is pending, and the ratio was waived after it missed."""
    figures = {
        **FIGURES,
        "latency_ratio": sampled("latency_ratio", 1.4, 1.3, 1.5, "ratio"),
        "flash_bytes": not_evaluated("flash_bytes", "bytes", "no emulator is connected"),
    }
    return deliver_verdict((*LIMITS, FLASH), figures, waived=("latency_ratio",))


def refused() -> Verdict:
    """The ratio misses, and the drop straddles its bound."""
    figures = {
        **FIGURES,
        "latency_ratio": sampled("latency_ratio", 1.4, 1.3, 1.5, "ratio"),
        "metric_drop": sampled("metric_drop", 0.9, 0.4, 1.4, "points"),
    }
    return deliver_verdict(LIMITS, figures)


def result(verdict: Verdict, bundle: Path | None = Path("out/digits-phone.edgekit")) -> BuildResult:
    """A finished build with something to say under every heading."""
    manifest = samples.manifest(
        name="digits",
        strategy=Strategy(
            steps=(
                PlannedStep(
                    name="quantize",
                    is_run=True,
                    reason="8 bits",
                    settings={"precision": "int8", "block_size": 0},
                ),
                PlannedStep(name="distil", is_run=False, reason="there is no training data"),
            )
        ),
        anti_patterns=("INT4 convolutions are slower than float here",),
    )
    evidence = replace(
        samples.evidence(manifest, manifest.bundle_id),
        audit=("classifier stayed float32 and was asked to be int8",),
        notes=("data: 2 samples were cut", "export: reused from the cache"),
        verdict=verdict,
    )
    return BuildResult(
        verdict=verdict,
        manifest=manifest,
        evidence=evidence,
        bundle=bundle,
        bundle_id=manifest.bundle_id,
        report=Path("out/digits-phone.edgekit.build"),
        stages=(
            StageLine(name="export", is_reused=True, seconds=0.1),
            StageLine(name="quantize", is_reused=False, seconds=2.0),
        ),
        steps=(),
        largest_layers=(LayerSize(layer="features.3", bytes=36_864, dtype="int8"),),
        advice=("keep features.0 in float: --layer '^features.0$=float'",),
        seconds=41.6,
    )


def facts() -> ModelFacts:
    """A model of one convolution."""
    return ModelFacts(
        family="convnet",
        parameters=58_634,
        weight_bytes=234_536,
        macs=1_787_904,
        peak_activation_bytes=24_576,
        operators=(OperatorFact(operator="aten.conv2d.default", module_path="features.0"),),
        layers=(
            LayerFact(
                module_path="features.0",
                kind="conv",
                weight_shape=(32, 1, 3, 3),
                parameters=320,
                macs=18_432,
            ),
        ),
        source_format="torch",
        digest="a" * 64,
    )


def profile() -> DeviceProfile:
    """A small board."""
    return DeviceProfile(
        name="board",
        title="A board",
        family="embedded",
        hardware=Hardware(
            abi="none",
            architecture=Fact(value="armv7e-m", source="datasheet, page 1"),
            features=Fact(value=("dsp",), source="datasheet, page 2"),
            flash_bytes=Fact(value=1_048_576, source="datasheet, page 3"),
        ),
        default_target="litert",
        limits=(*LIMITS, FLASH),
        steps=(),
    )


def plan() -> PlanResult:
    """A plan with an operator that one of two targets does not take."""
    target = Target(
        name="litert",
        title="LiteRT",
        format="tflite",
        suffix=".tflite",
        compiler="litert",
        runtime="litert",
        runtime_package="ai-edge-litert",
        minimum_runtime_version="2.1.0",
        toolchain=Toolchain(requirements=("ai-edge-litert==2.3.0",)),
    )
    lines = (
        support("aten.conv2d.default", "litert", "native"),
        support("aten.conv2d.default", "onnx", "native"),
        support("aten.sort.default", "litert", "unsupported", "no kernel"),
        support("aten.sort.default", "onnx", "fallback", "runs as float"),
    )
    return PlanResult(
        profile=profile(),
        target=target,
        facts=facts(),
        strategy=result(proven()).manifest.strategy,
        support=lines,
        estimates=(
            Figure(
                name="artifact_bytes",
                value=61_000,
                unit="bytes",
                provenance=Provenance.ESTIMATED,
                place=Place.NOWHERE,
                how="one byte a weight",
            ),
        ),
        notes=("distil is skipped: there is no training data",),
    )


def support(operator: str, target: str, how: str, note: str = "") -> SupportLine:
    """How one target takes one operator."""
    return SupportLine(
        operator=operator,
        count=3,
        module_paths=("features.0", ""),
        target=target,
        support=how,
        note=note,
    )


def fits() -> tuple[FitLine, ...]:
    """One of each outcome."""
    estimates = plan().estimates
    return tuple(
        FitLine(
            device=f"device-{index}",
            title="A device",
            target="litert",
            outcome=outcome,
            reason=reason,
            estimates=estimates if index < 2 else (),
        )
        for index, (outcome, reason) in enumerate(
            (
                ("fits", "inside every limit"),
                ("does not fit", "artifact_bytes is about 61 kB, at most 10 kB"),
                ("not supported", "aten.sort.default at features.0"),
                ("may not fit", "artifact_bytes may be 9 kB to 12 kB (estimated), at most 10 kB"),
            )
        )
    )
