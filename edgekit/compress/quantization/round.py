"""The step "round": weights on the grid that the artifact will store, chosen by calibration data.

The model stays an ordinary float model. Its exporters find the grid again, because every channel
(or block) is whole steps up to its largest weight: what is rounded here is what is stored.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from statistics import median
from typing import Any

from edgekit.compress.bench import Bench, StepPoint, StepResult
from edgekit.compress.count import count
from edgekit.compress.judge import Judge
from edgekit.compress.masks import copy_model
from edgekit.compress.quantization.bias import BiasCorrector, Correction
from edgekit.compress.quantization.bias_trial import SEEN, BiasTrial, try_correction
from edgekit.compress.quantization.layer_records import LayerRecords
from edgekit.compress.quantization.layers import LayerError, Layers
from edgekit.compress.quantization.learned_rounding import LearnedRounding
from edgekit.compress.quantization.readers import find_behind
from edgekit.compress.quantization.summed_rounding import round_by_sums
from edgekit.compress.training.checkpoint import fingerprint_of
from edgekit.compress.training.rounding import make_rounder
from edgekit.core.codec import to_plain
from edgekit.core.errors import StepError
from edgekit.core.progress import Reporter
from edgekit.core.steps.round import Round
from edgekit.core.steps.rounding import AUTO

_BY_ITSELF = "each weight by itself"
_NAMED_LAYERS = 3


def round_weights(settings: Round, bench: Bench, reporter: Reporter) -> StepResult:
    """Round the weights of convolutions and linear layers in place.

    Raises: StepError where no weight would change, no layer is left to round, and for a layer that
    gets NaN or infinity.
    """
    model = bench.model.to(bench.device).eval()
    rounder = make_rounder(model, settings.rounding, bench.call, bench.example())
    judge, run = Judge(bench), _Run(settings, bench, reporter, Layers(bench, rounder))
    size, before = count(model, bench), judge.score(model)
    run.round()
    scores = {"as it came": before, **run.scores(judge)}
    for path in rounder.left:
        reporter.note(f"{path}: left as it is: its weight is computed at each call")
    reporter.note(_summary(settings, run.layers.errors))
    if run.trial is not None:
        reporter.note(run.trial.text)
    if run.corrections:
        reporter.note(_corrected(run.corrections))
    _say_if_worse(judge, scores, run, reporter)
    return StepResult(
        model=model.cpu(),
        masks=bench.masks,
        points=tuple(
            StepPoint(name=name, parameters=size.parameters, macs=size.macs, score=score)
            for name, score in scores.items()
        ),
        values={
            "bits": {layer.path: layer.bits for layer in rounder.layers},
            "output_errors": {path: asdict(item) for path, item in run.layers.errors.items()},
            "bias_corrections": {path: asdict(item) for path, item in run.corrections.items()},
            "bias_trial": None if run.trial is None else asdict(run.trial),
        },
    )


class _Run:
    """One model, rounded and corrected in place."""

    def __init__(self, settings: Round, bench: Bench, reporter: Reporter, layers: Layers) -> None:
        self.layers, self.settings = layers, settings
        self.trial: BiasTrial | None = None
        self._bench, self._reporter = bench, reporter
        self._behind = find_behind(bench.model, layers.weights, bench.call, bench.example())
        self._reference = copy_model(bench.model)
        self._corrector: BiasCorrector | None = None
        if settings.is_bias_corrected:
            paths = list(layers.weights)
            half = SEEN if settings.is_bias_corrected == AUTO else None
            self._corrector = BiasCorrector(bench, self._reference, self._behind, paths, half=half)

    @property
    def corrections(self) -> dict[str, Correction]:
        """What was done to biases, by path."""
        return {} if self._corrector is None else self._corrector.corrections

    def round(self) -> None:
        """Round all layers, and correct their biases.

        Raises: StepError where no weight changed.
        """
        settings, bench = self.settings, self._bench
        if settings.method == "adaround":
            records = _records(settings, bench, self._reporter)
            learned = LearnedRounding(
                settings.adaround, bench, self._reference, self._behind, records
            )
            learned.run(self.layers, self._reporter, self._correct)
        else:
            round_by_sums(settings.method, bench, self.layers, self._reporter)
            for path in self.layers.weights:
                self._correct(path)
        if not self.layers.has_changed:
            raise StepError(
                "round: every weight was on its grid already, so nothing changed; take the step out"
            )
        self._try_correction()

    def scores(self, judge: Judge) -> dict[str, float]:
        """Of the model as it is now, and of what the simplest way would have made of it."""
        self.layers.place_nearest(self._reference)
        return {_BY_ITSELF: judge.score(self._reference), "rounded": judge.score(self._bench.model)}

    def _correct(self, path: str) -> None:
        """Unless it is only tried: then the layers are all rounded first."""
        if self._corrector is not None and self.settings.is_bias_corrected != AUTO:
            self._reporter.progress(f"correcting the mean outputs of {path}")
            self._corrector.correct(path)

    def _try_correction(self) -> None:
        if self._corrector is not None and self.settings.is_bias_corrected == AUTO:
            self.trial = try_correction(
                self._corrector,
                self._bench,
                self._reference,
                list(self.layers.weights),
                self._reporter,
            )


def _records(settings: Round, bench: Bench, reporter: Reporter) -> LayerRecords:
    """Layers that an earlier try of this very run may have finished."""
    facts = {
        "settings": to_plain(settings),
        "seed": bench.seed,
        "calibration": bench.calibration.digest,
    }
    state: Mapping[str, Any] = {**bench.model.state_dict(), **_named_masks(bench)}
    return LayerRecords(bench.checkpoints, fingerprint_of(facts, state), reporter)


def _named_masks(bench: Bench) -> dict[str, Any]:
    return {f"mask:{name}": value for name, value in bench.masks.items()}


def _say_if_worse(judge: Judge, scores: Mapping[str, float], run: _Run, reporter: Reporter) -> None:
    """Warn where the simplest way scores better on the selection data than what was done."""
    found, simplest = scores["rounded"], scores[_BY_ITSELF]
    if judge.is_better(simplest, found):
        how = run.settings.method + (" with corrected biases" if run.corrections else "")
        reporter.warn(
            f"round: {how} scores {found:.4g} on the selection data, and {simplest:.4g} with each "
            'weight rounded by itself; try method = "nearest" with is_bias_corrected = false'
        )


def _summary(settings: Round, errors: Mapping[str, LayerError]) -> str:
    """What rounding cost, for the report."""
    known = [item for item in errors.values() if not item.why_nearest]
    text = f"{len(errors)} layers by {settings.method}"
    if known:
        text += (
            "; squared error of a layer's outputs, median of layers: "
            f"{median(item.rounded for item in known):.2e} of their squares"
        )
        if settings.method != "nearest":
            text += f", {median(item.nearest for item in known):.2e} with each weight by itself"
    blind = [path for path, item in errors.items() if item.why_nearest]
    if blind:
        text += f"; by their weights alone: {', '.join(blind)} ({errors[blind[0]].why_nearest})"
    return text


def _corrected(corrections: Mapping[str, Correction]) -> str:
    """Where corrections went, for the report."""
    places = Counter(item.place for item in corrections.values() if item.place)
    text = "means of outputs corrected: " + (
        ", ".join(f"{count} times in a {place}" for place, count in places.items()) or "none"
    )
    moved = {path: item.moved_ratio for path, item in corrections.items() if item.place}
    if moved:
        worst = max(moved, key=moved.__getitem__)
        text += f"; most in {worst}, by {moved[worst]:.2%} of its outputs"
    left = {path: item.why_left for path, item in corrections.items() if item.why_left}
    if left:
        named = ", ".join(list(left)[:_NAMED_LAYERS])
        more = f" and {len(left) - _NAMED_LAYERS} more" if len(left) > _NAMED_LAYERS else ""
        text += f"; not in {named}{more} ({next(iter(left.values()))})"
    return text
