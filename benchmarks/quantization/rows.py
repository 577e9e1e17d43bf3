"""The rows of the table: one tool, one recipe, one model, one target."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmarks.quantization.environments import TOOLS

PROFILES = Path(__file__).parent / "device_profiles"
RESNETS, MINILM = ("resnet20", "resnet56"), ("minilm-64", "minilm-128")
TUNED = tuple(f"{name}-tuned" for name in RESNETS)
TARGETS = ("litert", "onnx")
BLOCK = 32
MINILM_INT4_BYTES = 15_250_000
# What the other tools' files in 4 bits take, stripped, which a mixed plan must not pass.
RESNET_INT4_BYTES = {
    ("resnet20", "litert"): 152_704,
    ("resnet56", "litert"): 469_536,
    ("resnet20", "onnx"): 153_191,
    ("resnet56", "onnx"): 476_659,
}
INT8 = {"precision": "int8", "activations": "static"}
INT4 = {"precision": "int4", "activations": "static"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One artifact. tool: "edgekit" or one of ``TOOLS``. kind: rows of one kind are compared.

    recipe: of a tool; of edgekit the device profile. settings, effort: edgekit's alone. label: what
    the table calls the recipe, where that is not its name. baseline: the name of a row before it,
    whose answers this one is held against in place of float's.
    """

    subject: str
    target: str
    kind: str
    tool: str
    recipe: str
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    effort: str = "quick"
    label: str = ""
    baseline: str = ""

    @property
    def name(self) -> str:
        """What ``--row`` calls it."""
        parts = (self.subject, self.target, self.kind, self.tool, self.label or self.recipe)
        return "/".join(parts)

    @property
    def title(self) -> str:
        """What the table calls it."""
        tool = TOOLS[self.tool].title if self.tool in TOOLS else "edgekit"
        return f"{tool}, {self.label or self.recipe}"


def all_rows() -> tuple[Row, ...]:
    """Every row in the order of the table."""
    return (*_resnets(), *_mobiles(), *_minilms(), *_stories())


def _resnets() -> list[Row]:
    rows = []
    for subject in RESNETS:
        for target, peers in (("litert", _AEQ_CONV), ("onnx", _ONNX_CONV)):
            rows += [
                _ours(subject, target, "int8", recipe, INT8) for recipe in ("plain", "rounded")
            ]
            rows += [_theirs(subject, target, "int8", *item) for item in peers["int8"]]
            rows += [
                _ours(subject, target, "int4", recipe, INT4) for recipe in ("plain", "rounded")
            ]
            rows += [_adaround(subject, target), _mixed(subject, target)]
            rows += [_theirs(subject, target, "int4", *item) for item in peers["int4"]]
            tuned = _ours(subject, target, "int4, trained", "tuned", None, effort="standard")
            trained = _ours(subject, target, "int4, trained", "trained", INT4, effort="standard")
            rows += [tuned, replace(trained, baseline=tuned.name)]
    return rows + [
        row for subject in TUNED for target in TARGETS for row in _taught(subject, target)
    ]


def _taught(subject: str, target: str) -> list[Row]:
    """Nets tuned in float, which teach themselves: rounded, and in float for the same epochs."""
    kind = "int4, distilled"
    return [
        _ours(subject, target, kind, "taught-float", None, effort="standard"),
        _ours(subject, target, kind, "taught", INT4, effort="standard"),
    ]


def _adaround(subject: str, target: str) -> Row:
    row = _ours(subject, target, "int4", "rounded", INT4)
    settings = {**row.settings, "round": {"method": "adaround"}}
    return replace(row, settings=settings, label="rounded by AdaRound")


def _mixed(subject: str, target: str) -> Row:
    budget = {
        "candidates": ["int8", "int4"],
        "max_bytes": RESNET_INT4_BYTES[subject, target],
    }
    return _ours(
        subject, target, "int4", "rounded", {**INT4, "precision": "mixed", "mixed": budget}
    )


_AEQ_CONV = {
    "int8": [("aeq", "static_wi8_ai8"), ("aeq", "dynamic_wi8_afp32")],
    "int4": [("aeq", "static_wi4_ai8")],
}
_ONNX_CONV = {
    "int8": [
        ("ort", "static"),
        ("ort", "static-percentile"),
        ("ort", "static-entropy"),
        ("nncf", "int8"),
        ("nncf", "int8-accurate"),
        ("olive", "static"),
    ],
    "int4": [("ort", "static:int4")],
}


def _mobiles() -> list[Row]:
    """One scale a layer, where channels were scaled apart and where they were not."""
    per_tensor = {"precision": "int8", "activations": "static", "is_per_tensor": True}
    return [
        _ours(subject, target, "int8, one scale a layer", recipe, per_tensor)
        for subject in ("mobile", "mobile-scaled")
        for target in TARGETS
        for recipe in ("plain", "equalized")
    ]


def _minilms() -> list[Row]:
    rows = []
    dynamic = {"precision": "int8", "activations": "dynamic"}
    blocks = {"precision": "int4", "activations": "dynamic", "block_size": BLOCK}
    # 17% of the float file, which is what INT4 alone may take.
    budget = {"candidates": ["int8", "int4"], "max_bytes": MINILM_INT4_BYTES}
    mixed = {**blocks, "precision": "mixed", "mixed": budget}
    theirs = {
        ("litert", "int8"): [("aeq", "dynamic_wi8_afp32")],
        ("onnx", "int8"): [("ort", "dynamic-transformer"), ("olive", "dynamic")],
        ("litert", "int8 static"): [("aeq", "static_wi8_ai8")],
        ("onnx", "int8 static"): [("ort", "static-transformer"), ("nncf", "int8-transformer")],
        ("litert", "int4"): [("aeq", "dynamic_wi4b32_afp32")],
        ("onnx", "int4"): [
            *(("ort", "int4-blocks"), ("nncf", "int4"), ("nncf", "int4-awq-scale")),
            *(("olive", "int4-rtn"), ("olive", "int4-hqq")),
        ],
    }
    # LiteRT holds results of linear layers in one scale each, ONNX Runtime what comes into them.
    even = {"litert": [("spread", INT8)], "onnx": [("smooth", INT8)]}
    ours = {
        "int8": [("plain", dynamic), ("smooth", dynamic)],
        "int8 static": [("plain", INT8)],
        "int4": [("plain", blocks), ("rounded", blocks), ("rounded", mixed)],
    }
    for subject in MINILM:
        for kind, recipes in ours.items():
            if subject != MINILM[0] and kind != "int8 static":
                continue
            for target in TARGETS:
                more = even[target] if kind == "int8 static" else []
                made = [_ours(subject, target, kind, *item) for item in (*recipes, *more)]
                rows += [_corrected(row) if row.recipe == "rounded" else row for row in made]
                rows += [_theirs(subject, target, kind, *item) for item in theirs[target, kind]]
    return rows


def _corrected(row: Row) -> Row:
    """With biases that take back what rounding does to means: transformers gain by it."""
    return replace(row, settings={**row.settings, "round": {"is_bias_corrected": True}})


def _stories() -> list[Row]:
    """Linear layers alone, 4 bits in blocks of 32."""
    blocks = {
        "precision": "int4",
        "activations": "none",
        "block_size": BLOCK,
        "keep_first_last_int8": False,
        "overrides": [{"pattern": "embed_tokens|lm_head", "precision": "float"}],
    }
    recipes = "plain", "awq", "rounded"
    peers = ("ort", "int4-blocks"), ("nncf", "int4"), ("nncf", "int4-awq-scale")
    return [
        *(_ours("stories260k", "onnx", "int4", recipe, blocks) for recipe in recipes),
        *(_theirs("stories260k", "onnx", "int4", *item) for item in peers),
    ]


def _ours(
    subject: str,
    target: str,
    kind: str,
    recipe: str,
    settings: Mapping[str, Any] | None,
    *,
    effort: str = "quick",
) -> Row:
    """A build. settings: of its quantize step, None where it has none."""
    return Row(
        subject=subject,
        target=target,
        kind=kind,
        tool="edgekit",
        recipe=recipe,
        settings={} if settings is None else {"quantize": settings},
        label=f"{recipe}, mixed" if settings and settings["precision"] == "mixed" else "",
        effort=effort,
    )


def _theirs(subject: str, target: str, kind: str, tool: str, recipe: str) -> Row:
    return Row(subject=subject, target=target, kind=kind, tool=tool, recipe=recipe)
