"""Low-rank adapters on a model: which layers they fit, and merging them into the weights."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from edgekit.compress.layer_paths import nearest_paths
from edgekit.compress.low_rank.adapter_files import WEIGHTS, Adapter, Factor
from edgekit.compress.thin_layers import is_transposed
from edgekit.core.errors import StepError


def fitted(adapter: Adapter, model: nn.Module) -> Adapter:
    """The adapter with the paths of this model, when every part of it fits.

    A model that wraps the one that the adapter was made for, or was taken out of it, differs in
    the beginning of all paths; that is put right.
    Raises: StepError for an adapter of another model: the key or the shape that differs.
    """
    modules = dict(model.named_modules())
    wanted = [*adapter.factors, *(path.rpartition(".")[0] for path in adapter.replaced)]
    cut, added = _beginning(adapter, wanted, modules)

    def here(path: str) -> str:
        return added + path.removeprefix(cut)

    found = replace(
        adapter,
        factors={here(path): factor for path, factor in adapter.factors.items()},
        replaced={here(path): value for path, value in adapter.replaced.items()},
        expected={here(path): value for path, value in adapter.expected.items()},
    )
    for path, factor in found.factors.items():
        check_factor(f"{adapter.folder / WEIGHTS}", path, modules[path], factor)
    _check_tensors(found, model)
    return found


def merge_(model: nn.Module, adapter: Adapter) -> None:
    """Add a fitted adapter to the weights of a model, in place.

    Raises: StepError for a weight that other layers share, and for an adapter of zeros.
    """
    shared = shared_parameters(model)
    for path in [*adapter.factors, *(item.rpartition(".")[0] for item in adapter.replaced)]:
        if path in shared:
            raise StepError(
                f"{adapter.folder}: layer '{path}' shares its weight with '{shared[path]}'; "
                "merging would change both. Untie the two before handing the model over "
                "(tie_word_embeddings=False), or leave this layer out of the adapter"
            )
    has_changed = False
    with torch.no_grad():
        for path, factor in adapter.factors.items():
            weight = model.get_submodule(path).get_parameter("weight")
            change = delta(model.get_submodule(path), factor).to(weight.device)
            has_changed = has_changed or bool(change.any())
            weight.copy_((weight.float() + change).to(weight.dtype))
        for path, value in adapter.replaced.items():
            target = model.get_parameter(path)
            has_changed = has_changed or not torch.equal(target.cpu(), value.to(target.dtype))
            target.copy_(value)
    if not has_changed:
        raise StepError(
            f"{adapter.folder}: the adapter changes no weight (all its products are zero); it was "
            "never trained"
        )


def delta(layer: nn.Module, factor: Factor) -> Tensor:
    """What an adapter adds to the weight of a layer: scale * B A, in the layout of the weight.

    Source: Hu et al. 2021, arXiv:2106.09685, section 4.1; PEFT's layout for convolutions: A is the
    kernel that goes down, B the 1x1 kernel that goes up.
    Shapes: as the weight, float32.
    """
    down, up = factor.down.float(), factor.up.float()
    product = factor.scale * torch.einsum("or,ri...->oi...", up.flatten(1), down)
    is_turned = factor.is_embedding or is_transposed(layer)
    return product.T if is_turned else product


def check_factor(where: str, path: str, layer: nn.Module, factor: Factor) -> None:
    """Refuse an adapter that does not fit a layer.

    Raises: StepError naming the shapes.
    """
    kind = type(layer).__name__
    is_known = isinstance(layer, (nn.Linear, nn.Conv1d, nn.Conv2d)) or is_transposed(layer)
    if factor.is_embedding:
        is_known = isinstance(layer, nn.Embedding)
    if not is_known or "weight" not in layer._parameters:  # noqa: SLF001  # else it is computed
        raise StepError(
            f"{where}: layer '{path}' is of class {kind} in this model, which takes no adapter; "
            "merge adapters before steps that replace layers, into linear layers, convolutions and "
            "embeddings"
        )
    if isinstance(layer, (nn.Conv1d, nn.Conv2d)) and layer.groups > 1:
        raise StepError(f"{where}: layer '{path}' has {layer.groups} groups; no adapter fits that")
    expected = list(layer.get_parameter("weight").shape)
    # A kernel that goes up has one tap; with more there is no product of the two.
    is_product = factor.up.flatten(1).shape[1] == factor.rank
    if not is_product or list(delta(layer, factor).shape) != expected:
        raise StepError(
            f"{where}: the factors of layer '{path}' are {list(factor.down.shape)} and "
            f"{list(factor.up.shape)}; its weight in this model is {expected}: the adapter belongs "
            "to another base model, or an earlier step changed this one"
        )


def shared_parameters(model: nn.Module) -> dict[str, str]:
    """Layers whose weight is that of another module too, and which."""
    owners: dict[int, list[str]] = {}
    for path, module in model.named_modules():
        for value in module.parameters(recurse=False):
            owners.setdefault(id(value), []).append(path)
    return {
        path: next(item for item in paths if item != path)
        for paths in owners.values()
        if len(set(paths)) > 1
        for path in paths
    }


def _beginning(
    adapter: Adapter, wanted: Sequence[str], modules: Mapping[str, nn.Module]
) -> tuple[str, str]:
    """What to cut off the adapter's paths, and what to put before them, so that all are there."""
    tried = _beginnings(wanted[0], modules) or [("", "")]
    missing = {item: _missing(wanted, item, modules) for item in tried}
    fitting = [item for item in tried if not missing[item]]
    if len(fitting) == 1 or ("", "") in fitting:
        return fitting[0]
    if fitting:
        places = ", ".join(f"'{added}'" for _, added in fitting[:3])
        raise StepError(
            f"{adapter.folder}: the adapter fits this model in {len(fitting)} places ({places}); "
            "hand over the model that it was trained on"
        )
    cut, added = min(tried, key=lambda item: len(missing[item]))
    path = missing[cut, added][0]
    there = [name for name, item in modules.items() if _has_weight(item)]
    near = nearest_paths(added + path.removeprefix(cut), there)
    raise StepError(
        f"{adapter.folder / WEIGHTS}: key 'base_model.model.{path}' names a layer that the model "
        f"does not have{near}; the adapter belongs to another base model"
    )


def _missing(
    wanted: Sequence[str], beginning: tuple[str, str], modules: Mapping[str, nn.Module]
) -> list[str]:
    cut, added = beginning
    return [
        path
        for path in wanted
        if not path.startswith(cut) or added + path.removeprefix(cut) not in modules
    ]


def _beginnings(path: str, modules: Iterable[str]) -> list[tuple[str, str]]:
    """Changes to the beginning that make one path a module's, the smallest change first."""
    parts = path.split(".")
    found = []
    for length in range(len(parts)):
        cut = "".join(f"{part}." for part in parts[:length])
        rest = path.removeprefix(cut)
        places = sorted(item for item in modules if item == rest or item.endswith(f".{rest}"))
        # Fewer parts than two are in every model; cutting that far proves nothing.
        if length and len(parts) - length < 2:
            break
        found += [(cut, place.removesuffix(rest)) for place in places]
        if found:
            break
    return found


def _check_tensors(adapter: Adapter, model: nn.Module) -> None:
    there = dict(model.named_parameters(remove_duplicate=False))
    for path, value in adapter.replaced.items():
        if path not in there:
            raise StepError(
                f"{adapter.folder / WEIGHTS}: '{path}' (modules_to_save) is no parameter of the "
                f"model{nearest_paths(path, list(there))}"
            )
        if there[path].shape != value.shape:
            raise StepError(
                f"{adapter.folder / WEIGHTS}: '{path}' (modules_to_save) is {list(value.shape)}; "
                f"in this model it is {list(there[path].shape)}"
            )
    for path, value in adapter.expected.items():
        ours = there.get(path)
        if (
            ours is None
            or ours.shape != value.shape
            or not torch.equal(ours.cpu().float(), value.float())
        ):
            raise StepError(
                f"{adapter.folder / WEIGHTS}: the adapter was saved with the base weight '{path}' "
                f"{list(value.shape)}, and this model's differs; it belongs to another base model"
            )


def _has_weight(module: nn.Module) -> bool:
    return next(module.parameters(recurse=False), None) is not None
