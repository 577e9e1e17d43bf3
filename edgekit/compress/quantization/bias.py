"""What rounding moves the mean of a layer's outputs by, put back as a bias.

The error of a rounded weight does not vanish on average: inputs behind a ReLU have means above
zero, and E[W~ x^] differs from E[W x]. Layer after layer, each with all before it rounded and
corrected, the difference of the means over the calibration data goes into the layer's bias, into
the mean of the batch norm that alone reads it, or into a new bias of a convolution, where every
format has room for one. The float model's own mean is what is restored, so errors that earlier
layers leave are corrected too.
Source: Nagel et al. 2019, arXiv:1906.04721, section 4.2 and appendix D (empirical); Banner et al.
2019, arXiv:1810.05723, section 4.2.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from edgekit.compress.bench import Bench
from edgekit.compress.moments import fast_path_off, input_batches
from edgekit.compress.quantization.layers import NOT_CALLED
from edgekit.compress.quantization.part_runs import run_to
from edgekit.compress.quantization.readers import Behind
from edgekit.compress.thin_layers import has_plain_forward
from edgekit.core.errors import StepError

NO_PLACE = "it has no bias, and no batch norm alone reads it"


@dataclass(frozen=True, slots=True, kw_only=True)
class Correction:
    """What one layer's outputs were moved by.

    place: "bias", "batch norm" or "new bias"; "" where there was none. moved_ratio: root mean
    square over channels of what the means were moved by, over that of the float outputs. why_left:
    why they were not; "" where they were.
    """

    place: str = ""
    moved_ratio: float = 0.0
    why_left: str = ""


@dataclass(slots=True)
class _Outputs:
    """Sums over all that a layer gives. Shapes: first (channels), float64."""

    first: Tensor | None = None
    second: float = 0.0
    places: int = 0

    def add(self, layer: nn.Module, output: Tensor) -> None:
        rows = _by_channels(layer, output).double()
        self.places += rows.shape[1]
        self.second += float(rows.square().sum())
        first = rows.sum(dim=1)
        self.first = first if self.first is None else self.first + first

    @property
    def mean(self) -> Tensor | None:
        return None if self.first is None else self.first / self.places


class BiasCorrector:
    """Corrects the model on the bench in place, one layer after another in the order of calls."""

    def __init__(
        self,
        bench: Bench,
        reference: nn.Module,
        behind: Mapping[str, Behind],
        paths: Sequence[str],
        *,
        half: int | None = None,
    ) -> None:
        """reference: the same model with float weights, which runs over the data once.

        half: of the calibration data that is seen, as ``input_batches`` has it; None for all.
        """
        self._bench, self._behind, self._half = bench, behind, half
        self._wanted = output_sums(bench, reference, paths, half)
        self._before: dict[str, Tensor | None] = {}
        self.corrections: dict[str, Correction] = {}

    @torch.no_grad()
    def correct(self, path: str) -> None:
        """Correct one layer that is rounded, as all before it are.

        Raises: StepError for a layer that gives NaN or infinity.
        """
        layer, behind = self._bench.model.get_submodule(path), self._behind[path]
        place = _place_for(layer, behind)
        if not place:
            self.corrections[path] = Correction(why_left=NO_PLACE)
            return
        wanted, found = self._wanted[path], self._found(path, layer)
        if wanted.mean is None or found.mean is None:
            self.corrections[path] = Correction(why_left=NOT_CALLED)
            return
        moved = wanted.mean - found.mean
        if not bool(moved.isfinite().all()):
            raise StepError(
                f"layer '{path}' gives NaN or infinity on the calibration data; check the weights "
                "and the samples"
            )
        moved = _kept(moved, self._bench.masks.get(f"{path}.bias"))
        self._before[path] = _held(layer, behind, place)
        _move_(layer, behind, place, moved)
        power = wanted.second / (wanted.places * len(moved))
        ratio = float(moved.square().mean() / max(power, 1e-30)) ** 0.5
        self.corrections[path] = Correction(place=place, moved_ratio=ratio)

    @torch.no_grad()
    def undo(self) -> None:
        """Take every correction back, to the bit."""
        for path, held in reversed(self._before.items()):
            layer, behind = self._bench.model.get_submodule(path), self._behind[path]
            _put_back_(layer, behind, self.corrections[path].place, held)
        self._before, self.corrections = {}, {}

    def _found(self, path: str, layer: nn.Module) -> _Outputs:
        """What the layer gives as the model stands."""
        found = _Outputs()

        def see(_: Tensor, output: Tensor) -> None:
            found.add(layer, output)

        for inputs in input_batches(self._bench, half=self._half):
            run_to(
                self._bench, self._bench.model, path, inputs, see, calls=self._behind[path].calls
            )
        return found


@torch.no_grad()
def output_sums(
    bench: Bench, model: nn.Module, paths: Sequence[str], half: int | None = None
) -> dict[str, _Outputs]:
    """The sums of several layers in one pass over the calibration data, or a half of them."""
    sums = {path: _Outputs() for path in paths}

    def watch(path: str) -> Any:
        def hook(layer: nn.Module, _: Any, output: Tensor) -> None:
            sums[path].add(layer, output)

        return model.get_submodule(path).register_forward_hook(hook)

    hooks = [watch(path) for path in paths]
    try:
        with fast_path_off():
            for inputs in input_batches(bench, half=half):
                bench.call(model, inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return sums


def _place_for(layer: nn.Module, behind: Behind) -> str:
    """What takes a correction of a layer's outputs."""
    if isinstance(layer._parameters.get("bias"), nn.Parameter):  # noqa: SLF001
        return "bias"
    if behind.norm is not None:
        return "batch norm"
    # A matrix product without one would become two operators in ONNX.
    is_bare = "bias" in layer._parameters and isinstance(layer, (nn.Conv1d, nn.Conv2d))  # noqa: SLF001
    return "new bias" if is_bare and has_plain_forward(layer) else ""


def _move_(layer: Any, behind: Behind, place: str, moved: Tensor) -> None:
    """Add to the means of a layer's outputs."""
    if place == "batch norm" and behind.norm is not None:
        behind.norm.mean.sub_(moved.to(behind.norm.mean))
    elif place == "bias":
        layer.bias.add_(moved.to(layer.bias))
    else:
        layer.bias = nn.Parameter(moved.to(layer.weight))


def _held(layer: Any, behind: Behind, place: str) -> Tensor | None:
    """A copy of what a correction will change; None for a bias that is not there yet."""
    if place == "batch norm" and behind.norm is not None:
        return behind.norm.mean.clone()
    held: Tensor | None = None if place == "new bias" else layer.bias.detach().clone()
    return held


def _put_back_(layer: Any, behind: Behind, place: str, held: Tensor | None) -> None:
    if held is None:
        layer.bias = None
    elif place == "batch norm" and behind.norm is not None:
        behind.norm.mean.copy_(held)
    else:
        layer.bias.copy_(held)


def _kept(moved: Tensor, mask: Tensor | None) -> Tensor:
    """A correction without the channels whose bias is zero for good."""
    return moved if mask is None else moved * mask.to(moved)


def _by_channels(layer: Any, output: Tensor) -> Tensor:
    """What a layer gives, by channel. Shapes: any -> (channels, places)."""
    if isinstance(layer, nn.Linear) or output.ndim < 2:
        axis = -1
    else:  # a sample may come without a batch axis
        axis = 1 if output.ndim == layer.weight.ndim else 0
    return output.detach().movedim(axis, 0).flatten(1)
