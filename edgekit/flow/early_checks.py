"""What of a strategy's settings can be held against the model before any work is done.

A step checks its settings itself, once it is reached; a slip of the pen should not wait for hours
of training before it.
"""

from pathlib import Path
from typing import Any

from edgekit.compress.layer_paths import matching
from edgekit.core.errors import StepError
from edgekit.core.planned import PlannedStep
from edgekit.core.steps.patterns import check_pattern

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


def _keeps_names(step: PlannedStep) -> bool:
    is_cut = bool(step.settings.get("drop_layers") or step.settings.get("depth_ratio"))
    return step.name in KEEPING or (step.name == "prune" and not is_cut)
