"""What of a strategy's settings can be held against the model before any work is done.

A step checks its settings itself, once it is reached; a slip of the pen should not wait for hours
of training before it.
"""

import re
from pathlib import Path
from typing import Any

from edgekit.compress.layer_paths import matching
from edgekit.core.errors import StepError
from edgekit.core.facts import LayerFact
from edgekit.core.planned import PlannedStep
from edgekit.core.steps.patterns import check_pattern
from edgekit.core.strategy import Override, Quantize

# Settings that hold patterns of module paths.
PATTERNS = ("ignore", "targets", "layer_ratios")
# Steps after which every layer still has the name that it had.
KEEPING = ("sparsify", "train", "equalize", "rotate", "smooth", "awq", "round", "spread", "lora")


def check_names(model: Any, steps: tuple[PlannedStep, ...]) -> None:
    """Refuse patterns that match no layer and adapters that are not there.

    model: the user's torch module. steps: those that run, in order; those behind one that makes
    other layers are not looked at.
    Raises: StepError naming the step, the pattern and the nearest layers.
    """
    paths = [path for path, _ in model.named_modules()]
    # A weight that a model multiplies itself is found by its own name.
    places = [*paths, *(name for name, _ in model.named_parameters())]
    for step in steps:
        overrides = [item["pattern"] for item in step.settings.get("overrides") or ()]
        for pattern in overrides:
            check_pattern(f"{step.name}: overrides", pattern)
        matching(f"{step.name}: overrides", overrides, places)
        for name in PATTERNS:
            patterns = step.settings.get(name) or ()
            matching(f"{step.name}: {name}", tuple(patterns), paths)
        adapter = step.settings.get("adapter", "")
        if adapter and not Path(adapter).exists():
            raise StepError(
                f"{step.name}: adapter '{adapter}' is not there; give the folder of a PEFT adapter"
            )
        if not _keeps_names(step):
            return


def check_some_are_stored(layers: tuple[LayerFact, ...], quantize: Quantize) -> None:
    """Refuse patterns that together leave every layer in float: the step would store nothing.

    layers: all that have weights.
    Raises: StepError naming the patterns.
    """
    if not layers or not all(_is_left(layer, quantize.overrides) for layer in layers):
        return
    patterns = dict.fromkeys(item.pattern for item in quantize.overrides)
    raise StepError(
        f"quantize: every layer with weights stays in float, by the patterns "
        f"{', '.join(repr(pattern) for pattern in patterns)}, so {quantize.precision} would be "
        "stored nowhere; take a pattern back, or take the step out"
    )


def _is_left(layer: LayerFact, overrides: tuple[Override, ...]) -> bool:
    """Whether the last override that matches a layer leaves it in float."""
    names = (layer.module_path, f"{layer.module_path}.weight")
    found = [item for item in overrides if any(re.search(item.pattern, name) for name in names)]
    return bool(found) and found[-1].precision == "float"


def _keeps_names(step: PlannedStep) -> bool:
    is_cut = bool(step.settings.get("drop_layers") or step.settings.get("depth_ratio"))
    return step.name in KEEPING or (step.name == "prune" and not is_cut)
