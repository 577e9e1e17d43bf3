"""What the benchmark of strategies builds, and the bars that each build is held against.

Bytes are the file's against those of the teacher's float file, both stripped alike.
"""

from pathlib import Path
from typing import Any

from benchmarks.builds.cell import Cell, at_most

HERE = Path(__file__).parent
WORKLOAD = str(HERE.parents[1] / "examples" / "fashion" / "workload.py")
TEACHER_TOP_1_PERCENT = 93.62
# Of the teacher's float file.
PHONE_SHARE, PHONE_DROP_POINTS = 1 / 12, 0.5
EMBEDDED_SHARE = 1 / 45
# Keeping 98% of the teacher's accuracy.
EMBEDDED_DROP_POINTS = 0.02 * TEACHER_TOP_1_PERCENT
SERVER_SPEED_UP, SERVER_DROP_POINTS = 2.2, 0.3
# What INT4 alone leaves of the teacher, and what the embedded strategy does.
LARGE_BYTES, SMALL_BYTES = 153_000, 24_000
# Float parameters that such a file holds, next to its container.
LARGE_PARAMETERS, SMALL_PARAMETERS = 36_000, 4_300
# Of every arm of a size.
LARGE_EPOCHS, SMALL_EPOCHS = 4, 12


def all_cells() -> tuple[Cell, ...]:
    """Every cell in the order of the table."""
    return (
        _profile("phone", "litert", (_share(PHONE_SHARE), _drop(PHONE_DROP_POINTS))),
        _profile("embedded", "litert", (_share(EMBEDDED_SHARE), _drop(EMBEDDED_DROP_POINTS))),
        *(_server(target) for target in ("litert", "onnx")),
        _arm("quantization-alone", "large", {"train": {"epochs": LARGE_EPOCHS}}),
        _arm("pruning-alone", "large", _pruned(LARGE_PARAMETERS, 0.5, LARGE_EPOCHS)),
        _arm("distillation-alone", "large", _student(LARGE_BYTES, 32, LARGE_EPOCHS)),
        _arm("mix", "large", _student(LARGE_BYTES, 8, LARGE_EPOCHS)),
        _arm("mix", "large-int4", _whole(LARGE_EPOCHS)),
        _arm("pruning-alone", "small", _pruned(SMALL_PARAMETERS, 1.0, SMALL_EPOCHS)),
        _arm("distillation-alone", "small", _student(SMALL_BYTES, 32, SMALL_EPOCHS)),
        _arm("mix", "small", _student(SMALL_BYTES, 4, SMALL_EPOCHS)),
    )


def _server(target: str) -> Cell:
    bars = (at_most("latency_ratio", 1 / SERVER_SPEED_UP, "ratio"), _drop(SERVER_DROP_POINTS))
    return _profile("edge-server", target, bars)


def _profile(device: str, target: str, bars: tuple[Any, ...]) -> Cell:
    """A shipped profile's own strategy as it stands."""
    return Cell(
        name=f"{device}-{target}",
        workload=WORKLOAD,
        device=str(HERE / "device_profiles" / f"strategies-{device}.toml"),
        target=target,
        effort="standard",
        bars=bars,
    )


def _arm(arm: str, size: str, settings: dict[str, dict[str, Any]]) -> Cell:
    """One technique alone, or the mix: the same epochs and augmentation, about the same bytes."""
    return Cell(
        name=f"{size}-{arm}",
        workload=WORKLOAD,
        device=str(HERE / "device_profiles" / f"{arm}.toml"),
        target="litert",
        effort="standard",
        settings=settings,
        watched=(_drop(1.0),),
    )


def _pruned(parameters: int, depth_ratio: float, epochs: int) -> dict[str, dict[str, Any]]:
    amounts = {"keep": parameters, "depth_ratio": depth_ratio, "round_to": 1}
    return {"prune": {**amounts, "recover": {"epochs": epochs}}}


def _student(size_bytes: int, bits: int, epochs: int) -> dict[str, dict[str, Any]]:
    """A student in so many bits; in fewer than a float has, it is trained as it will be stored."""
    distil = {"student_bytes": size_bytes, "student_bits": bits, "train": {"epochs": epochs}}
    if bits == 32:
        return {"distil": distil}
    distil["train"] = {"epochs": epochs, "rounding": {"precision": "auto"}}
    return {"distil": distil, "quantize": {"precision": f"int{bits}"}}


def _whole(epochs: int) -> dict[str, dict[str, Any]]:
    """The float model teaches itself what 4 bits hold; nothing is cut."""
    train = {"epochs": epochs, "rounding": {"precision": "auto"}}
    return {
        "distil": {"student": "current", "train": train},
        "quantize": {"precision": "int4"},
    }


def _share(bound: float) -> Any:
    return at_most("share", bound, "")


def _drop(bound_points: float) -> Any:
    return at_most("metric_drop", bound_points, "points")
