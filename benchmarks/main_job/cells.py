"""What the benchmark builds, and the bars that each build is held against.

Source of the bars: the proof that the first release was asked for; the tools underneath reach
them by hand.
"""

from pathlib import Path

from benchmarks.builds.cell import Cell, at_most

PROFILE = Path(__file__).parent / "device_profiles" / "main-job.toml"
EXAMPLES = Path(__file__).parents[2] / "examples"
RESNETS = ("resnet20", "resnet56")
TARGETS = ("litert", "onnx")

# Share of the bytes of the equally stripped float artifact, by precision and target.
RESNET_SHARES = {
    ("int8", "litert"): 0.285,
    ("int8", "onnx"): 0.31,
    ("fp16", "litert"): 0.52,
    ("fp16", "onnx"): 0.53,
    ("int4", "litert"): 0.17,
    ("int4", "onnx"): 0.20,
}
RESNET_DROPS_POINTS = {"int8": 0.3, "fp16": 0.1}
RESNET_INT8_SPEED_UPS = {"litert": 2.3, "onnx": 1.6}
FP16_LATENCY_RATIO = 1.05
# No bar was set for what 4 bits may cost; the profiles' own limit says what a user would be told.
INT4_WATCHED_DROP_POINTS = 1.0
MINILM_SHARE = 0.28
MINILM_COSINE = 0.99
# In points of a hundredth: what a mean cosine of 0.99 has lost.
MINILM_DROP_POINTS = 100 * (1 - MINILM_COSINE)


def all_cells() -> tuple[Cell, ...]:
    """Every cell in the order of the table."""
    resnets = [
        _resnet(model, target, precision)
        for model in RESNETS
        for precision in ("int8", "fp16", "int4")
        for target in TARGETS
    ]
    minilm = [
        _minilm(target, is_static=is_static) for is_static in (False, True) for target in TARGETS
    ]
    return (*resnets, *minilm)


def _resnet(model: str, target: str, precision: str) -> Cell:
    bars = [at_most("share", RESNET_SHARES[precision, target], "")]
    if precision in RESNET_DROPS_POINTS:
        bars.append(at_most("metric_drop", RESNET_DROPS_POINTS[precision], "points"))
    if precision == "int8":
        bars.append(at_most("latency_ratio", 1 / RESNET_INT8_SPEED_UPS[target], "ratio"))
    if precision == "fp16":
        bars.append(at_most("latency_ratio", FP16_LATENCY_RATIO, "ratio"))
    return Cell(
        name=f"{model}-{target}-{precision}",
        workload=f"{EXAMPLES / 'cifar10' / 'workload.py'}:{model}",
        device=str(PROFILE),
        target=target,
        settings={"quantize": {"precision": precision}},
        bars=tuple(bars),
        watched=(
            (at_most("metric_drop", INT4_WATCHED_DROP_POINTS, "points"),)
            if precision == "int4"
            else ()
        ),
    )


def _minilm(target: str, *, is_static: bool) -> Cell:
    drop = at_most("metric_drop", MINILM_DROP_POINTS, "points")
    return Cell(
        name=f"minilm-{target}-{'static-' if is_static else ''}int8",
        workload=str(EXAMPLES / "sentence_embedding" / "workload.py"),
        device=str(PROFILE),
        target=target,
        settings={
            "quantize": {"precision": "int8", **({"activations": "static"} if is_static else {})}
        },
        bars=(drop,) if is_static else (at_most("share", MINILM_SHARE, ""), drop),
        arguments={"length": "64"},
        # One scale a tensor wrecks it as .tflite, without the step `spread`.
        is_refusal_wanted=is_static and target == "litert",
    )
