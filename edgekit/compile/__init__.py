"""Compilers: a captured model in, artifacts out. torch and the converters live in this room.

``capture`` turns a torch model into an exported program with facts; ``litert*`` and ``onnx*`` are
one exporter and one quantizer each; ``strip`` removes names and metadata from what ships. This
module itself is light: it only registers what there is. To add a compiler, write its stages and
register a ``CompilerSpec`` under the entry points ``edgekit.compilers``.
"""

from dataclasses import dataclass

from edgekit.core.strategy import ActsOn, StepSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class CompilerSpec:
    """The stages of one compiler, by handler name, and the model formats that it takes.

    steps: the graph steps that it can do, by step name, as handlers. mobile: what is done last
    to the stripped artifact of a phone, "" for nothing. compare_ranges: how much of a dataset lies
    outside the ranges that the quantize step calibrated, "" where nothing can say.
    """

    name: str
    accepts: tuple[str, ...]
    export: str
    strip: str
    steps: dict[str, str]
    mobile: str = ""
    compare_ranges: str = ""


LITERT = CompilerSpec(
    name="litert",
    accepts=("torch", "tflite", "keras"),
    export="edgekit.compile.litert:export",
    strip="edgekit.compile.strip:strip",
    steps={"quantize": "edgekit.compile.litert:quantize"},
    compare_ranges="edgekit.compile.litert:compare_ranges",
)

ONNX = CompilerSpec(
    name="onnx",
    accepts=("torch", "onnx"),
    export="edgekit.compile.onnx:export",
    strip="edgekit.compile.strip:strip",
    steps={"quantize": "edgekit.compile.onnx:quantize"},
    compare_ranges="edgekit.compile.onnx:compare_ranges",
    # ONNX Runtime's reduced builds for phones load nothing but .ort.
    mobile="edgekit.compile.onnx:to_ort",
)

QUANTIZE = StepSpec(
    name="quantize",
    acts_on=ActsOn.GRAPH,
    handler="",
    settings="edgekit.core.strategy:Quantize",
    summary="fewer bits for weights and activations, by the target's own tool",
)
