"""A smaller model of the same class, for models that are built from a configuration object.

Made for what transformers calls a model: ``model.config`` says how wide and how deep it is, and
``type(model)(config)`` makes another. Use it as a workload's student factory::

    student = lambda: config_student(teacher, depth_ratio=0.5)
"""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from edgekit.core.errors import StepError

# What says how deep and how wide a model is, under the names of transformers' configurations.
_DEPTH = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
_HEADS = ("num_attention_heads", "n_head", "n_heads", "num_heads")
_KEY_HEADS = ("num_key_value_heads",)
_WIDTH = ("hidden_size", "n_embd", "dim", "d_model")
_INNER = ("intermediate_size", "n_inner", "hidden_dim", "ffn_dim")


def config_student(
    model: nn.Module, *, depth_ratio: float = 1.0, width_ratio: float = 1.0, seed: int = 0
) -> nn.Module:
    """A model of the same class with fewer layers, or narrower ones, in eval mode.

    With all of the width the student inherits the weights: of its layers those of the teacher's,
    evenly spaced, the last one among them. A narrower one begins with random weights. Widths stay
    whole heads of the same width, so they are rounded to the nearest of them.
    Raises: StepError for ratios outside 0..1, and for a model that is not built from such an
    object.
    Source: Sanh et al. 2019, arXiv:1910.01108 (DistilBERT), section 3 (layers taken over).
    """
    for name, ratio in (("depth_ratio", depth_ratio), ("width_ratio", width_ratio)):
        if not 0 < ratio <= 1:
            raise StepError(f"config_student: {name} is {ratio}; it must be above 0 and at most 1")
    config = copy.deepcopy(_config_of(model))
    depth = _shrunk_depth(config, depth_ratio)
    if width_ratio < 1:
        _shrink_width(config, width_ratio)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        student = type(model)(config)
    student = student.to(next(model.parameters()).dtype).eval()
    if width_ratio == 1:
        _inherit_(student, model, _depth_of(_config_of(model)), depth)
    return student


def kept_layers(layers: int, kept: int) -> list[int]:
    """Which of a model's layers a shallower one inherits: evenly spaced, the last among them."""
    return [-(-number * layers // kept) - 1 for number in range(1, kept + 1)]


def _config_of(model: nn.Module) -> Any:
    config = getattr(model, "config", None)
    if config is None or _name_of(config, _DEPTH) is None:
        raise StepError(
            f"config_student: a {type(model).__name__} has no 'config' that says how many layers "
            "it has (num_hidden_layers); write a factory that makes the smaller model yourself"
        )
    return config


def _name_of(config: Any, names: tuple[str, ...]) -> str | None:
    return next((name for name in names if isinstance(getattr(config, name, None), int)), None)


def _depth_of(config: Any) -> int:
    name = _name_of(config, _DEPTH)
    return int(getattr(config, name)) if name else 0


def _shrunk_depth(config: Any, ratio: float) -> int:
    name = _name_of(config, _DEPTH) or ""
    before = _depth_of(config)
    depth = max(1, round(before * ratio))
    setattr(config, name, depth)
    for key, value in list(vars(config).items()):
        # What is said of each layer (the kind of its attention, say) goes with the layers.
        if isinstance(value, list) and len(value) == before:
            setattr(config, key, [value[index] for index in kept_layers(before, depth)])
    return depth


def _shrink_width(config: Any, ratio: float) -> None:
    width, heads = _name_of(config, _WIDTH), _name_of(config, _HEADS)
    if width is None or heads is None:
        raise StepError(
            "config_student: the configuration says neither how wide the model is (hidden_size) nor"
            " how many heads it has (num_attention_heads); leave width_ratio at 1"
        )
    before, heads_before = getattr(config, width), getattr(config, heads)
    groups = _name_of(config, _KEY_HEADS)
    each = heads_before // getattr(config, groups) if groups else 1
    kept = max(1, round(heads_before * ratio / each)) * each
    setattr(config, heads, kept)
    setattr(config, width, before // heads_before * kept)
    if groups:
        setattr(config, groups, kept // each)
    inner = _name_of(config, _INNER)
    if inner is not None:
        setattr(config, inner, max(1, round(getattr(config, inner) * kept / heads_before)))


def _inherit_(student: nn.Module, teacher: nn.Module, layers: int, kept: int) -> None:
    """Take the weights over; a layer's are those of the teacher's layer that it stands for."""
    stacks = [
        path
        for path, module in teacher.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == layers
    ]
    chosen = kept_layers(layers, kept)
    theirs: Mapping[str, Tensor] = teacher.state_dict()
    wanted = {name: _source(name, stacks, chosen) for name in student.state_dict()}
    missing = [name for name, source in wanted.items() if source not in theirs]
    if missing:
        raise StepError(
            f"config_student: the teacher has no '{wanted[missing[0]]}' for the student's "
            f"'{missing[0]}'; write a factory that makes the smaller model yourself"
        )
    student.load_state_dict({name: theirs[source] for name, source in wanted.items()})


def _source(name: str, stacks: list[str], chosen: list[int]) -> str:
    for path in stacks:
        start = f"{path}." if path else ""
        number, dot, rest = name.removeprefix(start).partition(".")
        if name.startswith(start) and dot and number.isdigit():
            return f"{start}{chosen[int(number)]}.{rest}"
    return name
