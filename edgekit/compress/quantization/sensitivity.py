"""What each layer's weight costs the model's outputs at each precision.

A weight alone is put on the grid that the exporters will use, the model runs on calibration data,
and its final outputs are compared with those of the float model: squared error over their squares.
Errors of different layers are nearly uncorrelated, so that their squares nearly add up; what makes
use of that (``plan.mixed``) has the sum checked here too, by ``plan_error``.

Batch norms that are folded later multiply whole output channels, each of which has its own scale:
they change nothing here.
Source: Nagel et al. 2021, arXiv:2106.08295, section 3.6 (per-layer analysis); sums of squared
errors: Dong et al. 2019, arXiv:1911.03852 (HAWQ-V2), section 3.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice

import torch
from torch import Tensor, nn

from edgekit.compress.bench import Bench
from edgekit.compress.judge import Judge, restore_modes, training_modes
from edgekit.compress.moments import fast_path_off
from edgekit.compress.quantization.layer_forms import Form, FormedLayer, Refusals, formed_layers
from edgekit.core.errors import StepError
from edgekit.core.progress import Reporter
from edgekit.core.sensitivity import LayerSensitivity, PlanError, PrecisionCost, Sensitivity

BATCH_SAMPLES = 32
# Outputs of the float model that are held to compare with; a language model's are large.
_OUTPUT_BYTES = 256 * 2**20
_FLOAT_BYTES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """How sensitivities are measured.

    forms: that each weight is tried in. samples: of the calibration data, at most. metric_layers:
    layers that the metric judges too.
    """

    forms: tuple[Form, ...]
    samples: int = 128
    metric_layers: int = 3


def measure_sensitivity(probe: Probe, bench: Bench, reporter: Reporter) -> Sensitivity:
    """Every layer at every precision, on the bench's calibration data.

    The model on the bench is as it was afterwards.
    Raises: StepError for a model without such layers, and outputs that cannot be compared.
    """
    model = bench.model.to(bench.device).eval()
    layers, refusals = formed_layers(model, probe.forms, bench)
    comparison = Comparison(bench, model, probe.samples)
    if comparison.samples < min(probe.samples, bench.calibration.count):
        reporter.note(
            f"errors are measured on {comparison.samples} samples: the outputs of more would take "
            f"over {_OUTPUT_BYTES // 2**20} MiB"
        )
    found = []
    for number, layer in enumerate(layers):
        reporter.progress(f"measuring {layer.path}", number / len(layers))
        found.append(_measured(layer, comparison, refusals))
    judged, unit = _judged(found, layers, probe, bench, reporter)
    return Sensitivity(
        layers=tuple(judged),
        samples=comparison.samples,
        metric=bench.metric.name,
        unit=unit,
        left=refusals.whole,
    )


def plan_error(
    chosen: Mapping[str, str],
    probe: Probe,
    bench: Bench,
    reporter: Reporter,
    *,
    is_judged: bool = False,
) -> PlanError:
    """The error of a whole plan: a form's name by layer path; others stay float.

    is_judged: by the metric on the selection data too.
    """
    model = bench.model.to(bench.device).eval()
    layers, _ = formed_layers(model, probe.forms, bench)
    forms = {form.name: form for form in probe.forms}
    reporter.progress("measuring a whole plan")
    comparison = Comparison(bench, model, probe.samples)
    judge = Judge(bench)
    before = judge.judge(model).drop if is_judged else 0.0
    with _all_shown(layers, chosen, forms):
        cost = comparison.errors()
        drop = judge.judge(model).drop - before if is_judged else None
    return PlanError(error=cost.error, cosine_loss=cost.cosine_loss, metric_drop=drop)


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputErrors:
    """Of a model's outputs, against those of the same model before."""

    error: float
    cosine_loss: float


class Comparison:
    """The outputs of a model as it stands, to compare with later."""

    def __init__(self, bench: Bench, model: nn.Module, samples: int) -> None:
        self._bench, self._model = bench, model
        self._inputs: list[dict[str, Tensor]] = []
        self._wanted: list[dict[str, Tensor]] = []
        self.samples = 0
        for inputs in self._batches(samples):
            self._inputs.append(inputs)
            self._wanted.append(self._run(inputs))
            self.samples += len(next(iter(inputs.values())))
            held = sum(item.numel() for batch in self._wanted for item in batch.values())
            if held * _FLOAT_BYTES > _OUTPUT_BYTES:
                break
        if not self._wanted[0]:
            names = ", ".join(item.name for item in bench.contract.outputs)
            raise StepError(
                f"sensitivity: no output of the model is a float ({names}), so that errors have no "
                "size; give a model that gives its scores"
            )

    def errors(self) -> OutputErrors:
        """How far the outputs are now from what they were; the mean over the model's outputs.

        Raises: StepError for outputs that are NaN or infinite.
        """
        lost = dict.fromkeys(self._wanted[0], 0.0)
        power, cosines = dict(lost), dict(lost)
        for inputs, wanted in zip(self._inputs, self._wanted, strict=True):
            for name, found in self._run(inputs).items():
                reference = wanted[name].flatten(1)
                found = found.flatten(1)  # noqa: PLW2901
                lost[name] += float((found - reference).square().sum())
                power[name] += float(reference.square().sum())
                cosines[name] += float(_cosines(found, reference).sum())
        # Outputs that are all zero have no size to compare with: any error is whole.
        errors = [
            lost[name] / power[name] if power[name] else float(lost[name] > 0) for name in lost
        ]
        turned = [1 - cosines[name] / self.samples for name in lost]
        return OutputErrors(
            error=sum(errors) / len(errors), cosine_loss=max(0.0, sum(turned) / len(turned))
        )

    def _batches(self, samples: int) -> Iterator[dict[str, Tensor]]:
        names = [item.name for item in self._bench.contract.inputs]
        size = min(BATCH_SAMPLES, samples)
        rows = self._bench.calibration.batches(size, names)
        left = samples
        for values in islice(rows, -(-samples // size)):
            yield {
                name: torch.from_numpy(value[:left]).to(self._bench.device)
                for name, value in values.items()
            }
            left -= size

    @torch.no_grad()
    def _run(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        modes = training_modes(self._model)
        self._model.eval()
        try:
            with fast_path_off():
                found = self._bench.call(self._model, inputs)
        finally:
            restore_modes(modes)
        floats = {
            name: value.detach().double()
            for name, value in found.items()
            if value.is_floating_point()
        }
        for name, value in floats.items():
            if not bool(value.isfinite().all()):
                raise StepError(
                    f"sensitivity: output '{name}' is NaN or infinite on the calibration data; "
                    "check the weights and the samples"
                )
        return floats


def _cosines(found: Tensor, reference: Tensor) -> Tensor:
    """One a sample; 1 where both are zero. Shapes: (n, values) twice -> (n)."""
    lengths = found.norm(dim=1) * reference.norm(dim=1)
    products = (found * reference).sum(dim=1)
    both_zero = (found.norm(dim=1) == 0) & (reference.norm(dim=1) == 0)
    safe = products / torch.where(lengths > 0, lengths, torch.ones_like(lengths))
    return torch.where(both_zero, torch.ones_like(safe), safe)


def _measured(layer: FormedLayer, comparison: Comparison, refusals: Refusals) -> LayerSensitivity:
    costs = {}
    for form in layer.forms:
        with shown(layer, form):
            errors = comparison.errors()
        costs[form.name] = PrecisionCost(
            bytes=form.weight_bytes(layer.weight),
            error=errors.error,
            cosine_loss=errors.cosine_loss,
        )
    return LayerSensitivity(
        path=layer.path,
        others=layer.others,
        kind=layer.kind,
        parameters=layer.weight.numel(),
        costs=costs,
        why_not=refusals.forms.get(layer.path, {}),
    )


def _judged(
    found: Sequence[LayerSensitivity],
    layers: Sequence[FormedLayer],
    probe: Probe,
    bench: Bench,
    reporter: Reporter,
) -> tuple[list[LayerSensitivity], str]:
    """The same with the metric's drop of those layers that cost most, and its unit."""
    judge, by_path = Judge(bench), {layer.path: layer for layer in layers}
    before = judge.paired(bench.model).drop
    worst = sorted(found, key=lambda item: (-item.worst, item.path))[: probe.metric_layers]
    judged = {}
    for number, item in enumerate(worst):
        reporter.progress(f"judging {item.path} by {bench.metric.name}", number / len(worst))
        layer, costs = by_path[item.path], dict(item.costs)
        for form in layer.forms:
            with shown(layer, form):
                drop = judge.judge(bench.model).drop - (before.value or 0.0)
            costs[form.name] = replace(costs[form.name], metric_drop=drop)
        judged[item.path] = replace(item, costs=costs)
    return [judged.get(item.path, item) for item in found], before.unit


@contextmanager
def shown(layer: FormedLayer, form: Form) -> Iterator[None]:
    """Within the block the layer's weight is what a file of this form would hold."""
    kept = layer.weight.detach().clone()
    with torch.no_grad():
        layer.weight.copy_(form.stored(kept, layer))
    try:
        yield
    finally:
        with torch.no_grad():
            layer.weight.copy_(kept)


@contextmanager
def _all_shown(
    layers: Sequence[FormedLayer], chosen: Mapping[str, str], forms: Mapping[str, Form]
) -> Iterator[None]:
    kept = [layer.weight.detach().clone() for layer in layers]
    try:
        with torch.no_grad():
            for layer, weight in zip(layers, kept, strict=True):
                if chosen.get(layer.path, "float") != "float":
                    layer.weight.copy_(forms[chosen[layer.path]].stored(weight, layer))
        yield
    finally:
        with torch.no_grad():
            for layer, weight in zip(layers, kept, strict=True):
                layer.weight.copy_(weight)
