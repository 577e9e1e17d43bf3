"""A changed model on disk without a pickle: its tensors, and how its modules differ.

``structure.json`` is the tree of modules: the class of each, its plain attributes (numbers,
strings, flags and tuples of them) and its children in order. A model is read back onto the one
that it was made from: a module of the same class at the same path is kept and gets the written
attributes; any other is made anew, if it is of a class that can be made from its attributes alone
(``MAKEABLE``). Tensors are in ``state.safetensors``, the masks of pruned weights among them.
Writing reads the result back at once and compares: what cannot be kept is an error then and not
in a later build.
"""

import copy
import importlib
import json
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from edgekit.compress.masks import require_zeros
from edgekit.core.codec import canonical_json
from edgekit.core.errors import StepError

STATE = "state.safetensors"
STRUCTURE = "structure.json"
_MASK = "mask:"
_TENSOR = "tensor:"

Plain = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedState:
    """A model as it was written, in eval mode, and the masks of its pruned weights."""

    model: nn.Module
    masks: dict[str, Tensor]


def save_state(
    model: nn.Module, base: nn.Module, folder: Path, masks: Mapping[str, Tensor] | None = None
) -> None:
    """Write a model that was made from ``base`` by steps.

    Raises: StepError for a module that cannot be made again from what is written, and for masks
    that the weights do not keep.
    """
    require_zeros(model, masks or {})
    tensors = {_TENSOR + name: value for name, value in _named_tensors(model)}
    tensors |= {_MASK + name: value.to(torch.uint8) for name, value in (masks or {}).items()}
    ready = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    # Written here: a full disk is then an OSError, as everywhere else.
    (folder / STATE).write_bytes(save(ready))
    (folder / STRUCTURE).write_bytes(canonical_json(_describe(model)))
    loaded = load_state(base, folder).model
    _compare(model, loaded)


def load_state(base: nn.Module, folder: Path) -> LoadedState:
    """The model that ``save_state`` wrote, made from a copy of the same ``base``.

    Raises: StepError when the base is another than the one that it was made from.
    """
    model = copy.deepcopy(base)
    structure = json.loads((folder / STRUCTURE).read_bytes())
    model = _rebuild(model, structure, "")
    stored = load_file(folder / STATE)
    masks = {
        name.removeprefix(_MASK): value.bool()
        for name, value in stored.items()
        if name.startswith(_MASK)
    }
    tensors = {
        name.removeprefix(_TENSOR): value
        for name, value in stored.items()
        if name.startswith(_TENSOR)
    }
    for name, value in tensors.items():
        _place(model, name, value, tensors)
    return LoadedState(model=model.eval(), masks=masks)


def _named_tensors(model: nn.Module) -> list[tuple[str, Tensor]]:
    """Parameters and buffers, each once: a tied weight is written under its first name."""
    return [*model.named_parameters(), *model.named_buffers()]


def _describe(module: nn.Module) -> Plain:
    kept = {key: _plain(value) for key, value in vars(module).items() if _is_kept(key, value)}
    return {
        "class": class_name(type(module)),
        "attributes": kept,
        "parameters": [name for name, value in module._parameters.items() if value is not None],  # noqa: SLF001
        "children": [[name, _describe(child)] for name, child in module.named_children()],
    }


def _is_kept(name: str, value: Any) -> bool:
    return not name.startswith("_") and name != "training" and _is_plain(value)


def _is_plain(value: Any) -> bool:
    if isinstance(value, tuple):
        return all(_is_plain(item) for item in value)
    return value is None or isinstance(value, (bool, int, float, str))


def _plain(value: Any) -> Any:
    # JSON has no tuples: they are told from lists by their tag.
    if isinstance(value, tuple):
        return {"tuple": [_plain(item) for item in value]}
    return value if value is not None else {"none": True}


def _unplain(value: Any) -> Any:
    if isinstance(value, dict):
        return tuple(_unplain(item) for item in value["tuple"]) if "tuple" in value else None
    return value


def class_name(kind: type[nn.Module]) -> str:
    """What a class of modules is called in a written structure."""
    return f"{kind.__module__}:{kind.__qualname__}"


def _rebuild(module: nn.Module | None, wanted: Plain, path: str) -> nn.Module:
    attributes = {name: _unplain(value) for name, value in wanted["attributes"].items()}
    # A module that takes the place of another may have taken over its children.
    children = dict(module.named_children()) if module is not None else {}
    if module is None or class_name(type(module)) != wanted["class"]:
        module = _make(wanted["class"], attributes, path)
        children = dict(module.named_children()) | children
        for name in wanted["parameters"]:
            if name not in module._parameters:  # noqa: SLF001
                module.register_parameter(name, nn.Parameter(torch.empty(0)))
    for name, value in attributes.items():
        if getattr(module, name, _ABSENT) != value:
            setattr(module, name, value)
    names = [name for name, _ in wanted["children"]]
    for name in dict(module.named_children()):
        if name not in names:
            delattr(module, name)
    for name, child in wanted["children"]:
        place = f"{path}.{name}" if path else name
        rebuilt = _rebuild(children.get(name), child, place)
        if rebuilt is not module._modules.get(name):  # noqa: SLF001
            module.add_module(name, rebuilt)
    return module


_ABSENT = object()


def _make(class_name: str, attributes: Plain, path: str) -> nn.Module:
    if class_name.startswith(f"{__package__}."):
        importlib.import_module(class_name.partition(":")[0])  # which adds its own to MAKEABLE
    maker = MAKEABLE.get(class_name)
    if maker is None:
        raise StepError(
            f"module '{path}': a {class_name.partition(':')[2]} that the model did not have there "
            "cannot be written down; replace modules only by torch.nn layers or by modules of "
            "edgekit.compress"
        )
    return maker(attributes)


def _place(model: nn.Module, name: str, value: Tensor, stored: Container[str]) -> None:
    path, _, leaf = name.rpartition(".")
    try:
        owner = model.get_submodule(path)
    except AttributeError as error:
        raise StepError(
            f"'{name}' is in the written state and not in the model: {error}"
        ) from error
    if leaf in owner._parameters:  # noqa: SLF001  # setting by name would lose requires_grad
        old = owner._parameters[leaf]  # noqa: SLF001
        is_trained = old is None or old.requires_grad
        new = nn.Parameter(value, requires_grad=is_trained and value.is_floating_point())
        for holder, key in _holders(model, old, name, stored):
            holder._parameters[key] = new  # noqa: SLF001
    else:
        owner._buffers[leaf] = value  # noqa: SLF001


def _holders(
    model: nn.Module, old: Tensor | None, name: str, stored: Container[str]
) -> list[tuple[nn.Module, str]]:
    """Every place of one parameter: tied weights stay tied, unless each has a value stored."""
    path, _, leaf = name.rpartition(".")
    own = [(model.get_submodule(path), leaf)]
    if old is None:
        return own
    return own + [
        (module, key)
        for path, module in model.named_modules()
        for key, value in module._parameters.items()  # noqa: SLF001
        if value is old and f"{path}.{key}".lstrip(".") not in stored
    ]


def _compare(model: nn.Module, loaded: nn.Module) -> None:
    ours, theirs = dict(_named_tensors(model)), dict(_named_tensors(loaded))
    for name in ours.keys() | theirs.keys():
        one, other = ours.get(name), theirs.get(name)
        if one is None or other is None or not torch.equal(one.detach().cpu(), other.detach()):
            raise StepError(
                f"'{name}' cannot be written down and read back; the step that changed it must "
                "leave parameters and buffers in their modules"
            )
    if _describe(model) != _describe(loaded):
        raise StepError("the model's modules cannot be written down and read back as they are")


def _layer(kind: type[nn.Module], *names: str, **renamed: str) -> Callable[[Plain], nn.Module]:
    """A maker of torch.nn layers from the attributes that they keep of their arguments."""

    def make(attributes: Plain) -> nn.Module:
        given = {name: attributes[name] for name in names}
        given |= {argument: attributes[name] for argument, name in renamed.items()}
        return kind(**given)

    return make


_CONV = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups")


def _bare(maker: Callable[[Plain], nn.Module]) -> Callable[[Plain], nn.Module]:
    """The same layer with no bias: one that is written is placed, one that is not must not be."""

    def make(attributes: Plain) -> nn.Module:
        module = maker(attributes)
        module.register_parameter("bias", None)
        return module

    return make


# Classes that can be made from their attributes, by name. A module of edgekit's own that replaces
# one of the model's is added where it is defined.
MAKEABLE: dict[str, Callable[[Plain], nn.Module]] = {
    class_name(nn.Identity): lambda _: nn.Identity(),
    class_name(nn.Sequential): lambda _: nn.Sequential(),
    class_name(nn.Linear): _bare(_layer(nn.Linear, "in_features", "out_features")),
    class_name(nn.Conv1d): _bare(_layer(nn.Conv1d, *_CONV)),
    class_name(nn.Conv2d): _bare(_layer(nn.Conv2d, *_CONV)),
}
