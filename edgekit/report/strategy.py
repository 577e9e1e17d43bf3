"""A strategy: the steps in order, skipped ones among them, a reason each."""

from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from edgekit.core.codec import to_plain
from edgekit.core.profile import DeviceProfile
from edgekit.core.steps import (
    Awq,
    Distil,
    Equalize,
    Factorize,
    Lora,
    Prune,
    Rotate,
    Round,
    Smooth,
    Sparsify,
    Spread,
    Train,
)
from edgekit.core.strategy import PlannedStep, Quantize, Strategy
from edgekit.report.parts import bullets, table

# Steps whose settings are many: a table shows those that differ from the defaults.
SETTINGS: Mapping[str, type[Any]] = {
    "awq": Awq,
    "distil": Distil,
    "equalize": Equalize,
    "factorize": Factorize,
    "lora": Lora,
    "prune": Prune,
    "rotate": Rotate,
    "round": Round,
    "smooth": Smooth,
    "sparsify": Sparsify,
    "spread": Spread,
    "train": Train,
}


# Of the quantize step.
RARELY_SET = ("mixed", "calibration", "has_symmetric_activations", "activation_bits")


def settings_text(settings: Mapping[str, Any]) -> str:
    """Settings on one line: ``precision int8, activations static``; empty ones left out."""
    shown = {key: value for key, value in settings.items() if value not in ("", [], (), {}, None)}
    return ", ".join(f"{key} {_value_text(value)}" for key, value in shown.items())


def _value_text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return "{" + settings_text(value) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_value_text(item) for item in value) + "]"
    return str(to_plain(value))


def strategy_table(strategy: Strategy, *, title: str = "Strategy") -> RenderableType:
    """Every planned step: whether it runs, with which settings, and why."""
    rows = [
        (
            step.name,
            _standing(step),
            settings_text(_stated(step)) or "as by default" if step.is_run else "-",
            step.reason,
        )
        for step in strategy.steps
    ]
    return Group(Text(), table(("step", "", "settings", "reason"), rows, title=title))


def _standing(step: PlannedStep) -> Text:
    if step.is_run:
        return Text("run", style="green")
    return Text("SKIPPED", style="yellow") if step.is_needed else Text("no need")


def _stated(step: PlannedStep) -> Mapping[str, Any]:
    """The settings of a step that are not its defaults; the manifest has them all."""
    kind = SETTINGS.get(step.name)
    if kind is not None:
        return _changed(step.settings, to_plain(kind()))
    if step.name != "quantize":
        return step.settings
    # What hardly anybody sets is shown where somebody did.
    usual = to_plain(Quantize(precision="int8", activations="none"))
    rare = {key: step.settings[key] for key in RARELY_SET if key in step.settings}
    plain = {key: value for key, value in step.settings.items() if key not in RARELY_SET}
    return plain | _changed(rare, usual)


def _changed(settings: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    changed: dict[str, Any] = {}
    for key, value in settings.items():
        default = defaults.get(key)
        if isinstance(value, Mapping) and isinstance(default, Mapping):
            value = _changed(value, default)  # noqa: PLW2901
        if value not in (default, {}):
            changed[key] = value
    return changed


def skipped_steps(strategy: Strategy) -> RenderableType:
    """The steps that did not run, and those that had no need to, with the reason; or nothing."""
    titles = {"Skipped steps": strategy.skipped, "No need of": strategy.unneeded}
    lines = {
        title: (f"{step.name}: {step.reason}" for step in steps) for title, steps in titles.items()
    }
    return Group(*(bullets(title, items) for title, items in lines.items()))


def asked_steps(profile: DeviceProfile) -> RenderableType:
    """The steps as a profile asks for them, before any model is known."""
    rows = [
        (
            step.name,
            "required" if step.is_required else "optional",
            step.when or "always",
            settings_text(step.settings) or "-",
            step.reason,
        )
        for step in profile.steps
    ]
    headings = ("step", "", "when", "settings", "reason")
    return Group(Text(), table(headings, rows, title="Strategy"))
