"""What to try where the metric dropped too far: by the step that lost most of it."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from edgekit.core.figure import Figure
from edgekit.core.precision import INTEGERS
from edgekit.core.units import format_quantity
from edgekit.flow.compressed import ModuleStep
from edgekit.flow.planning import Plan
from edgekit.plan.estimate import kept_share

DROP = "metric_drop"
QUANTIZE = "quantize"
BY_PRECISION = {
    "int4": "use int8 (--set quantize.precision=int8), or keep sensitive layers at 8 bits "
    "(--layer PATTERN=int8)",
    "int8": "keep sensitive layers in float (--layer PATTERN=float), calibrate on more samples, "
    "or use fp16 (--set quantize.precision=fp16)",
    "fp16": "values beyond 65504 or below 6e-8 are lost in half precision; keep those layers in "
    "float (--layer PATTERN=float)",
    "bf16": "8 bits of mantissa lose little: look at earlier steps, or use fp16 "
    "(--set quantize.precision=fp16)",
    "fp8_e4m3": "keep sensitive layers at 16 bits (--layer PATTERN=bf16), or use int8 "
    "(--set quantize.precision=int8)",
    "fp8_e5m2": "use fp8_e4m3, which has one more bit of mantissa "
    "(--set quantize.precision=fp8_e4m3), or keep sensitive layers at 16 bits "
    "(--layer PATTERN=bf16)",
    "nf4": "shorter blocks (--set quantize.block_size=32), or keep sensitive layers at 8 bits "
    "(--layer PATTERN=fp8_e4m3)",
}
# Steps that give back what others cost, at the size that the model has.
RECOVERING = ("distil", "lora", "train")


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """What one step did to the metric, in the unit of the drop; below 0 it won some back."""

    step: str
    lost: float


def advise_on_drop(plan: Plan, drop: Figure, module_steps: Iterable[ModuleStep]) -> Iterator[str]:
    """Lines on a drop that is too large, the most promising first."""
    losses = losses_of(drop, module_steps)
    worst = max(losses, key=lambda item: item.lost)
    if len(losses) > 1:
        lost, whole = (
            format_quantity(value, drop.unit) for value in (worst.lost, drop.value or 0.0)
        )
        is_won_back = worst.lost > (drop.value or 0.0)
        text = f"{lost}, {whole} after all steps" if is_won_back else f"{lost} of {whole}"
        yield f"{DROP}: most is lost by '{worst.step}': {text}"
    remedy = _remedy_of(worst.step, plan)
    if remedy:
        yield f"{DROP}: {remedy}"
    yield from (f"{DROP}: {line}" for line in _skipped_remedies(plan))


def losses_of(drop: Figure, module_steps: Iterable[ModuleStep]) -> tuple[Loss, ...]:
    """The drop as it grew, step by step; what the steps on the graph lost is the last one's."""
    losses, so_far = [], 0.0
    for step in module_steps:
        after = next((item.value for item in step.figures if item.name == DROP), None)
        if after is not None:
            losses.append(Loss(step=step.name, lost=after - so_far))
            so_far = after
    return (*losses, Loss(step=QUANTIZE, lost=(drop.value or 0.0) - so_far))


def _remedy_of(step: str, plan: Plan) -> str:
    """What to change in the step that lost most."""
    name = step.partition(" ")[0]  # the second "prune" is "prune 2"
    if name == QUANTIZE:
        quantize = plan.quantize
        precision = quantize.precision if quantize else ""
        rounded = _rounded_training(plan) if precision in INTEGERS else ""
        return rounded + BY_PRECISION.get(precision, "see the audit")
    settings = next(
        (item.settings for item in plan.strategy.steps if item.name == name and item.is_run), {}
    )
    parts = _REMEDIES[name](settings) if name in _REMEDIES else ()
    return ", or ".join(parts) or f"milder settings of '{name}' (--set {name}.KEY=VALUE)"


def _rounded_training(plan: Plan) -> str:
    """How a step that trains could see weights as they will be stored, where none does."""
    places = {"distil": ("train",), "train": ()}
    for step in reversed(plan.strategy.steps):
        if step.is_run and step.name in places:
            table: Mapping[str, Any] = step.settings
            for key in places[step.name]:
                table = table.get(key, {})
            path = ".".join((step.name, *places[step.name], "rounding.precision"))
            is_rounded = table.get("rounding", {}).get("precision", "none") != "none"
            return "" if is_rounded else f"train with rounded weights (--set {path}=auto), or "
    return ""


def _skipped_remedies(plan: Plan) -> Iterator[str]:
    """Skipped steps that would win something back, and what lets them run."""
    has_shrunk = any(
        item.is_run and kept_share(item.name, item.settings) < 1 for item in plan.strategy.steps
    )
    for step in plan.strategy.skipped:
        # A distillation of the model as it is makes a smaller one, which loses more.
        if step.name in RECOVERING and (has_shrunk or step.name != "distil"):
            why = step.reason.partition(" (")[0]
            yield (
                f"'{step.name}' was skipped ({why}) and may win some back: it runs with training "
                "data and --effort standard"
            )


def _prune(settings: Mapping[str, Any]) -> Iterator[str]:
    if settings.get("drop_layers"):
        fewer, now = settings["drop_layers"] - 1, settings["drop_layers"]
        yield f"drop fewer layers (--set prune.drop_layers={fewer}, now {now})"
    elif settings.get("keep"):
        yield f"keep more (--set prune.keep={settings['keep'] * 1.5:g}, now {settings['keep']:g})"
    else:
        # The ratio is of what layers hold; one that goes whole is the depth's.
        has_depth = bool(settings.get("depth_ratio"))
        if has_depth:
            yield _milder("prune", "depth_ratio", settings)
        if not has_depth or list(settings.get("units", ())) != ["layers"]:
            yield _milder("prune", "ratio", settings)
    yield _longer("prune.recover", settings.get("recover", {}))
    if not settings.get("is_within_limit"):
        yield "stop inside the limit (--set prune.is_within_limit=true)"


def _sparsify(settings: Mapping[str, Any]) -> Iterator[str]:
    if settings.get("sparsity_ratio"):
        yield _milder("sparsify", "sparsity_ratio", settings)
    if settings.get("method") == "magnitude" and settings.get("scope") != "global":
        yield "choose weights by calibration data (--set sparsify.method=sparsegpt)"
    yield _longer("sparsify.recover", settings.get("recover", {}))


def _distil(settings: Mapping[str, Any]) -> Iterator[str]:
    yield _longer("distil.train", settings.get("train", {}))
    amount = next((key for key in ("student_bytes", "student_macs") if settings.get(key)), "")
    if amount:
        now = settings[amount]
        yield f"a larger student (--set distil.{amount}={now * 3 // 2}, now {now})"
    elif kept_share("distil", settings) < 1:
        ratio = settings["student_ratio"]
        yield f"a larger student (--set distil.student_ratio={(1 + ratio) / 2:.2g}, now {ratio:g})"


def _factorize(settings: Mapping[str, Any]) -> Iterator[str]:
    key = {"search": "parameter_ratio"}.get(settings.get("ranks", ""), settings.get("ranks", ""))
    if key in settings:
        value = settings[key]
        yield f"higher ranks (--set factorize.{key}={(1 + value) / 2:.3g}, now {value:g})"
    yield _longer("factorize.recover", settings.get("recover", {}))


def _trained(name: str) -> Callable[[Mapping[str, Any]], Iterator[str]]:
    def remedies(settings: Mapping[str, Any]) -> Iterator[str]:
        train = settings.get("train", settings)
        place = f"{name}.train" if "train" in settings else name
        lower = train["learning_rate"] / 3
        yield f"a lower learning rate (--set {place}.learning_rate={lower:.1g})"

    return remedies


_REMEDIES: Mapping[str, Callable[[Mapping[str, Any]], Iterator[str]]] = {
    "prune": _prune,
    "sparsify": _sparsify,
    "distil": _distil,
    "factorize": _factorize,
    "lora": _trained("lora"),
    "train": _trained("train"),
}


def _milder(step: str, key: str, settings: Mapping[str, Any]) -> str:
    now = float(settings[key])
    return f"take less (--set {step}.{key}={0.75 * now:.2g}, now {now:g})"


def _longer(place: str, train: Mapping[str, Any]) -> str:
    epochs = int(train.get("epochs", 0))
    if not epochs:
        return f"train after it (--set {place}.epochs=10, with --effort standard)"
    return f"train longer (--set {place}.epochs={2 * epochs}, now {epochs}; --effort max: 3 times)"
