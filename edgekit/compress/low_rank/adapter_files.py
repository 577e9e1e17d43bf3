"""Low-rank adapters as PEFT writes them: ``adapter_config.json`` and ``adapter_model.safetensors``.

Files come from strangers. Weights are read from safetensors only, which hold no code; a setting
that changes what the adapter computes, and is not computed here, is refused and not skipped.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from edgekit.core.errors import StepError

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
_CONFIG_BYTES = 1 << 20
_PREFIX = "base_model.model."
_PATTERN_LENGTH = 200

# What PEFT 0.21 writes that says nothing of what a merged adapter computes.
_HARMLESS = frozenset({
    "alpha_pattern", "auto_mapping", "base_model_name_or_path", "bias", "ensure_weight_tying",
    "eva_config", "exclude_modules", "fan_in_fan_out", "inference_mode", "init_lora_weights",
    "layers_pattern", "layers_to_transform", "lora_alpha", "lora_dropout", "lora_ga_config",
    "megatron_config", "megatron_core", "modules_to_save", "monteclora_config", "peft_type",
    "peft_version", "qalora_group_size", "r", "rank_pattern", "revision", "runtime_config",
    "target_modules", "task_type", "use_rslora",
})  # fmt: skip
# Starts that leave the base model's weights as they are; all others (pissa, olora, corda, loftq)
# are differences from a base that was changed first.
_PLAIN_STARTS = (True, False, None, "gaussian", "eva", "orthogonal", "mica")


@dataclass(frozen=True, slots=True, kw_only=True)
class Factor:
    """The adapter of one layer: ``scale * up @ down`` is added to its weight.

    Shapes: down (rank, in, ...), up (out, rank, ...); of an embedding down (rank, count), up
    (width, rank).
    """

    down: Tensor
    up: Tensor
    scale: float
    is_embedding: bool = False

    @property
    def rank(self) -> int:
        """Of the product."""
        return len(self.down)


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter:
    """What an adapter changes. factors: by module path. replaced: whole tensors, by tensor path.

    expected: tensors of the base model that the adapter was saved with, by tensor path. folder:
    where it came from, for messages.
    """

    folder: Path
    factors: Mapping[str, Factor]
    replaced: Mapping[str, Tensor] = field(default_factory=dict)
    expected: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Config:
    rank: int
    alpha: float
    is_rank_stabilized: bool
    ranks: dict[str, int]
    alphas: dict[str, float]
    whole_modules: tuple[str, ...]


def load_adapter(folder: Path) -> Adapter:
    """An adapter from a folder in PEFT's format.

    Raises: StepError for a folder without the two files, weights in a pickle, a kind of adapter
    that cannot be merged, and tensors that do not belong together.
    """
    config = _read_config(folder)
    tensors = _read_weights(folder)
    halves: dict[str, dict[str, Tensor]] = {}
    replaced: dict[str, Tensor] = {}
    expected: dict[str, Tensor] = {}
    for key, value in tensors.items():
        path, part = _split(folder, key)
        if part:
            halves.setdefault(path, {})[part] = value
        elif ".base_layer." in path:
            expected[path.replace(".base_layer.", ".")] = value
        elif _is_whole(path, config.whole_modules):
            replaced[path] = value
        else:
            raise StepError(
                f"{folder / WEIGHTS}: key '{key}' is no part of a LoRA adapter, and modules_to_save"
                f" ({', '.join(config.whole_modules) or 'none'}) does not name it; it cannot be "
                "merged"
            )
    factors = {path: _factor(folder, config, path, parts) for path, parts in halves.items()}
    if not factors and not replaced:
        raise StepError(f"{folder / WEIGHTS}: no adapter in it; nothing would change")
    return Adapter(folder=folder, factors=factors, replaced=replaced, expected=expected)


def _read_config(folder: Path) -> _Config:
    plain = _read_json(folder)
    kind = plain.get("peft_type")
    if kind != "LORA":
        _refuse(folder, "peft_type", kind, "only LORA adapters can be merged")
    if plain.get("bias", "none") != "none":
        _refuse(folder, "bias", plain["bias"], "only adapters with bias 'none' can be merged")
    start = plain.get("init_lora_weights", True)
    if start not in _PLAIN_STARTS:
        _refuse(
            folder,
            "init_lora_weights",
            start,
            "such an adapter is a difference from changed base weights; save it with "
            "path_initial_model_for_weight_conversion in PEFT, which makes it a plain one",
        )
    for name, value in plain.items():
        if name not in _HARMLESS and value not in (None, False, {}, []):
            _refuse(folder, name, value, "this kind of adapter cannot be merged here")
    whole = _typed(folder, plain, "modules_to_save", list, None) or []
    return _Config(
        rank=_count(folder, "r", plain.get("r", 8)),
        alpha=_number(folder, "lora_alpha", plain.get("lora_alpha", 8)),
        is_rank_stabilized=bool(_typed(folder, plain, "use_rslora", bool, None)),
        ranks={
            _pattern(folder, key): _count(folder, f"rank_pattern.{key}", value)
            for key, value in (_typed(folder, plain, "rank_pattern", dict, None) or {}).items()
        },
        alphas={
            _pattern(folder, key): _number(folder, f"alpha_pattern.{key}", value)
            for key, value in (_typed(folder, plain, "alpha_pattern", dict, None) or {}).items()
        },
        whole_modules=tuple(str(name) for name in whole),
    )


def _read_json(folder: Path) -> dict[str, Any]:
    file = folder / CONFIG
    if not file.is_file():
        inside = sorted(item.parent.name for item in folder.glob(f"*/{CONFIG}"))[:3]
        hint = f"; did you mean the folder '{inside[0]}' in it?" if inside else ""
        raise StepError(
            f"{folder}: no {CONFIG} there; an adapter is a folder as PEFT's save_pretrained writes "
            f"it{hint}"
        )
    if file.stat().st_size > _CONFIG_BYTES:
        raise StepError(f"{file}: {file.stat().st_size:,} bytes; a config is a few kilobytes")
    try:
        plain = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise StepError(f"{file}: cannot be read as JSON: {error}") from error
    if not isinstance(plain, dict):
        raise StepError(f"{file}: a {type(plain).__name__}; it must be a table of settings")
    return plain


def _read_weights(folder: Path) -> dict[str, Tensor]:
    file = folder / WEIGHTS
    if not file.is_file():
        pickles = sorted(item.name for item in folder.glob("adapter_model.*"))
        if pickles:
            raise StepError(
                f"{folder / pickles[0]}: only {WEIGHTS} is read: other formats are pickles, and "
                "opening one runs whatever code is in it; load it in PEFT where you trust it, and "
                "save it with save_pretrained(folder, safe_serialization=True)"
            )
        raise StepError(f"{folder}: no {WEIGHTS} there; save the adapter with PEFT again")
    try:
        tensors = load_file(file)
    except (OSError, ValueError, SafetensorError) as error:
        raise StepError(f"{file}: cannot be read as safetensors: {error}") from error
    for key, value in tensors.items():
        if not value.is_floating_point():
            raise StepError(f"{file}: '{key}' is {value.dtype}; adapters are floats")
        if not bool(torch.isfinite(value.float()).all()):
            raise StepError(f"{file}: '{key}' holds NaN or infinity; save a sound adapter")
    return tensors


def _split(folder: Path, key: str) -> tuple[str, str]:
    """The module path and the part of an adapter that a key names; a tensor's path and "" else."""
    if not key.startswith(_PREFIX):
        raise StepError(
            f"{folder / WEIGHTS}: key '{key}' does not begin with '{_PREFIX}'; these are not "
            "weights that PEFT saved"
        )
    rest = key.removeprefix(_PREFIX)
    for part in ("lora_A", "lora_B", "lora_embedding_A", "lora_embedding_B"):
        for ending in (f".{part}.weight", f".{part}"):
            if rest.endswith(ending):
                return rest.removesuffix(ending).replace(".base_layer", ""), part
    if ".lora_" in rest:
        raise StepError(
            f"{folder / WEIGHTS}: key '{key}' belongs to a variant of LoRA (DoRA, biases) that "
            "cannot be merged here; merge it in PEFT (merge_and_unload) and hand over that model"
        )
    return rest, ""


def _is_whole(path: str, modules: tuple[str, ...]) -> bool:
    owner = path.rpartition(".")[0]
    return any(f".{name}." in f".{owner}." for name in modules)


def _factor(folder: Path, config: _Config, path: str, parts: Mapping[str, Tensor]) -> Factor:
    is_embedding = "lora_embedding_A" in parts or "lora_embedding_B" in parts
    stem = "lora_embedding_" if is_embedding else "lora_"
    names = {f"{stem}A", f"{stem}B"}
    if set(parts) != names:
        raise StepError(
            f"{folder / WEIGHTS}: layer '{path}' has {', '.join(sorted(parts))}; an adapter needs "
            f"{' and '.join(sorted(names))}"
        )
    down, up = parts[f"{stem}A"], parts[f"{stem}B"]
    rank = config.ranks.get(_key(config.ranks, path), config.rank)
    if down.ndim < 2 or up.ndim < 2 or len(down) != rank or up.shape[1] != rank:
        raise StepError(
            f"{folder / WEIGHTS}: layer '{path}' has factors {list(down.shape)} and "
            f"{list(up.shape)}; the config says rank {rank}: [{rank}, ...] and [..., {rank}]"
        )
    alpha = config.alphas.get(_key(config.alphas, path), config.alpha)
    scale = alpha / math.sqrt(rank) if config.is_rank_stabilized else alpha / rank
    return Factor(down=down.float(), up=up.float(), scale=scale, is_embedding=is_embedding)


def _key(patterns: Mapping[str, object], path: str) -> str:
    """The first pattern that matches the end of a path from a dot on, as PEFT looks them up."""
    return next((key for key in patterns if re.match(rf"(.*\.)?({key})$", path)), "")


def _pattern(folder: Path, pattern: str) -> str:
    """A pattern from a file, if matching it is sure to come to an end soon."""
    is_safe = len(pattern) <= _PATTERN_LENGTH and not re.search(r"\)\s*[*+{]", pattern)
    try:
        re.compile(pattern)
    except re.error:
        is_safe = False
    if not is_safe:
        _refuse(
            folder,
            "rank_pattern or alpha_pattern",
            pattern,
            f"a pattern is a regular expression of at most {_PATTERN_LENGTH} characters without "
            "repeated groups",
        )
    return pattern


def _count(folder: Path, name: str, value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        _refuse(folder, name, value, "it must be a whole number, 1 or more")
    return int(value)


def _number(folder: Path, name: str, value: Any) -> float:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value):
        _refuse(folder, name, value, "it must be a finite number")
    return float(value)


def _typed(folder: Path, plain: Mapping[str, Any], name: str, kind: type, default: Any) -> Any:
    value = plain.get(name, default)
    if value is not None and not isinstance(value, kind):
        _refuse(folder, name, value, f"it must be a {kind.__name__}")
    return default if value is None else value


def _refuse(folder: Path, name: str, value: object, allowed: str) -> None:
    raise StepError(f"{folder / CONFIG}: {name} is {str(value)[:80]!r}; {allowed}")
