"""Which weights take part in unstructured pruning, and how a weight is laid out as a matrix.

What takes part are the weights of layers that multiply their inputs by them, and of embeddings. The
last layer and the embeddings are among them by default: a share of zeros is promised for the whole
model, and a classifier or a table of tokens is often most of it. ``ignore`` leaves them out.
Biases, normalization, positions and weights that are computed from others stay dense.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from edgekit.compress.layer_paths import matching
from edgekit.compress.thin_layers import has_plain_forward, is_transposed
from edgekit.core.errors import StepError

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_ROWS = (
    nn.Linear,
    *(nn.Embedding, nn.EmbeddingBag),
    *(nn.MultiheadAttention, nn.RNNBase, nn.RNNCellBase),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SparseWeight:
    """One parameter that takes part.

    name: of the parameter, under its first name where it is shared. path: of its module. in_axis:
    the axis of its inputs. groups: of a convolution; each has inputs of its own. why_unmapped: why
    what comes in cannot be weighed against it; "" where the module is a linear map of its input.
    """

    name: str
    path: str
    module: nn.Module
    parameter: nn.Parameter
    in_axis: int
    groups: int = 1
    why_unmapped: str = ""

    @property
    def channels(self) -> int:
        """Inputs of one output, without the taps of a kernel."""
        is_split = isinstance(self.module, _TRANSPOSED)  # its weight holds all groups side by side
        return self.parameter.shape[self.in_axis] // (self.groups if is_split else 1)

    def matrix(self, values: Tensor) -> Tensor:
        """Anything of the parameter's shape with a row for each output.

        Shapes: (rows, taps x channels): the channels of one tap stand side by side.
        """
        turned = values.movedim(self.in_axis, -1)
        return turned.reshape(turned.shape[0], -1)

    def restored(self, matrix: Tensor) -> Tensor:
        """The way back from ``matrix``."""
        turned = self.parameter.movedim(self.in_axis, -1).shape
        return matrix.reshape(turned).movedim(-1, self.in_axis).contiguous()


@dataclass(frozen=True, slots=True, kw_only=True)
class Participants:
    """The weights of a model. dense: names of those of two or more axes that stay, and why."""

    weights: tuple[SparseWeight, ...]
    dense: dict[str, str]


def participants(model: nn.Module, ignore: Sequence[str] = (), *, group: int = 0) -> Participants:
    """The weights that take part. group: inputs that share a pattern; 0 for none.

    Raises: StepError for a pattern of ``ignore`` that matches nothing, a weight with NaN or
    infinity, and a model in which nothing takes part.
    """
    found = known_weights(model, ignore, group=group)
    if not found.weights:
        raise StepError(_nothing(found.dense))
    return found


def known_weights(model: nn.Module, ignore: Sequence[str] = (), *, group: int = 0) -> Participants:
    """The same, where a model may have none.

    Raises: StepError for a pattern of ``ignore`` that matches nothing, and a weight with NaN or
    infinity.
    """
    owners = {path: item for path, item in model.named_modules() if _has_own(item)}
    ignored = matching("sparsify: ignore", ignore, owners)
    uses = _uses(model)
    found: list[SparseWeight] = []
    dense: dict[str, str] = {}
    for name, parameter in model.named_parameters():
        if parameter.ndim < 2:
            continue
        weight = _participant(model, name, parameter, uses[id(parameter)])
        reason = weight if isinstance(weight, str) else _why_dense(weight, group)
        if any(path in ignored for path, _ in uses[id(parameter)]):
            reason = "the settings say so (ignore)"
        if reason or isinstance(weight, str):
            dense[name] = reason
        else:
            found.append(weight)
    for weight in found:
        _check_finite(weight)
    return Participants(weights=tuple(found), dense=dense)


def _has_own(module: nn.Module) -> bool:
    return next(module.parameters(recurse=False), None) is not None


def _uses(model: nn.Module) -> dict[int, list[tuple[str, nn.Module]]]:
    """Every place of each parameter, by its identity."""
    found: dict[int, list[tuple[str, nn.Module]]] = {}
    for path, module in model.named_modules():
        for value in module.parameters(recurse=False):
            found.setdefault(id(value), []).append((path, module))
    return found


def _participant(
    model: nn.Module,
    name: str,
    parameter: nn.Parameter,
    uses: Sequence[tuple[str, nn.Module]],
) -> SparseWeight | str:
    """The parameter as one that takes part, or why it does not."""
    path, _, leaf = name.rpartition(".")
    module = model.get_submodule(path)
    axis = _in_axis(module, leaf)
    if axis is None:
        return f"what a {type(module).__name__} does with it is not known"
    return SparseWeight(
        name=name,
        path=path,
        module=module,
        parameter=parameter,
        in_axis=axis,
        groups=getattr(module, "groups", 1),
        why_unmapped=_why_unmapped(module, leaf, uses),
    )


def _in_axis(module: nn.Module, leaf: str) -> int | None:
    """The axis of a weight's inputs; None for a parameter that is none of the known weights."""
    is_weight = leaf == "weight" or isinstance(module, (nn.RNNBase, nn.RNNCellBase))
    if isinstance(module, nn.MultiheadAttention):
        is_weight = leaf.endswith("proj_weight")
    if not is_weight:
        return None
    if isinstance(module, _TRANSPOSED) or is_transposed(module):
        return 0
    if isinstance(module, _CONVOLUTIONS):
        return 1
    return 1 if isinstance(module, _ROWS) else None


def _why_unmapped(module: nn.Module, leaf: str, uses: Sequence[tuple[str, nn.Module]]) -> str:
    if len(uses) > 1:
        return "its weight is shared with " + ", ".join(f"'{path}'" for path, _ in uses[1:])
    is_map = isinstance(module, (nn.Linear, nn.Conv1d, nn.Conv2d)) or is_transposed(module)
    if not is_map or leaf != "weight":
        return f"layers of class {type(module).__name__} are no plain linear maps of their input"
    if not has_plain_forward(module):
        return f"layers of class {type(module).__name__} compute in a way of their own"
    return ""


def _why_dense(weight: SparseWeight, group: int) -> str:
    if not weight.parameter.is_floating_point():
        return f"it is {weight.parameter.dtype}, not floats"
    if group and weight.channels % group:
        return f"its {weight.channels} inputs are no whole groups of {group}"
    return ""


def _check_finite(weight: SparseWeight) -> None:
    if not bool(weight.parameter.isfinite().all()):
        raise StepError(
            f"sparsify: '{weight.name}' has NaN or infinite weights; hand over a model whose "
            "weights are finite"
        )


def _nothing(dense: dict[str, str]) -> str:
    if not dense:
        return "sparsify: the model has no weights of two or more axes, so there is nothing to do"
    lines = "; ".join(f"{name}: {reason}" for name, reason in list(dense.items())[:5])
    return f"sparsify: no weight takes part ({lines}); change ignore or pattern, or the model"
