"""The order of a strategy's steps: which orders cannot be, and why."""

from collections.abc import Iterable, Mapping, Sequence

from edgekit.core.errors import StepError
from edgekit.core.planned import PlannedStep
from edgekit.core.strategy import ActsOn, Step, StepSpec
from edgekit.plan.rounding import AWQ, GRID_STEPS, ROUND, has_rounding, trains_ranges

# Steps after which the layers are others, or the model is another one.
REPLACING = ("prune", "distil", "factorize")
ROTATE = "rotate"
# Steps that scale or mix channels, which moves weights off a grid that they are on.
SCALING = ("equalize", ROTATE, "smooth", AWQ)
# Their scales of channels are in norms, which a rotation puts into the layers.
UNDONE_BY_ROTATION = ("smooth", AWQ)
SPREAD = "spread"


def check_kinds(steps: Iterable[Step], installed: Mapping[str, StepSpec], where: str) -> None:
    """Refuse a step on the torch model after one on the exported graph, and a graph step twice.

    Steps that would be skipped count too: what is legal must not hang on data or effort.
    Raises: StepError saying which two steps, and why.
    """
    graph_step = ""
    for step in steps:
        spec = installed.get(step.name)
        if spec is None:
            continue
        if spec.acts_on is ActsOn.GRAPH:
            if step.name == graph_step:
                raise StepError(
                    f"{where}: step '{step.name}' stands twice, and the second would round what "
                    "the first has rounded; once is enough: take one out, or give single layers "
                    "other bits with 'overrides' in its settings"
                )
            graph_step = step.name
        elif graph_step:
            raise StepError(
                f"{where}: step '{step.name}' changes the torch model, so it must come before "
                f"'{graph_step}', which changes the exported graph; move it up"
            )


def check_results_are_used(
    planned: Sequence[PlannedStep],
    installed: Mapping[str, StepSpec],
    where: str,
    *,
    has_student: bool,
) -> None:
    """Refuse a step that cannot use, or would throw away, what earlier steps made.

    has_student: the workload has a student factory. Only steps that run count.
    Raises: StepError saying which two steps, and why.
    """
    earlier: list[PlannedStep] = []
    for step in planned:
        if not (step.is_run and installed[step.name].acts_on is ActsOn.MODULE):
            continue
        names = [item.name for item in earlier]
        _check_last(step, earlier, where)
        if step.name == "lora":
            _check_adapter(step, names, where)
        if step.name == "factorize":
            _check_dense(earlier, where)
        if step.name == ROTATE:
            _check_unscaled(earlier, where)
        if step.name == "distil":
            _check_student(step, names, where, has_student=has_student)
        _check_rounded(step, earlier, where)
        if step.name in SCALING:
            _check_unrounded(step, earlier, where)
        earlier.append(step)


def _check_last(step: PlannedStep, earlier: Sequence[PlannedStep], where: str) -> None:
    """Refuse what comes after a step whose layers compute in a way of their own."""
    last = next((item for item in earlier if _multiplies(item)), None)
    if last is not None:
        is_same = step.name == last.name
        what = "stands twice" if is_same else f"comes after '{last.name}'"
        also = "" if last.name == SPREAD else ", or take its has_multipliers out"
        remedy = "take one out" if is_same else f"move '{last.name}' behind '{step.name}'{also}"
        side = "outputs" if last.name == SPREAD else "inputs"
        raise StepError(
            f"{where}: step '{step.name}' {what}, which makes layers that multiply their {side} "
            f"and that other steps on the model do not know; {remedy}"
        )
    trained = next((item.name for item in earlier if trains_ranges(item)), "")
    if step.name == SPREAD and trained:
        raise StepError(
            f"{where}: step '{SPREAD}' comes after '{trained}', whose trained ranges of "
            f"activations would not be those of the layers any more; take '{SPREAD}' out, or set "
            f"rounding.activations of '{trained}' to \"none\""
        )


def _multiplies(step: PlannedStep) -> bool:
    return step.name == SPREAD or bool(step.settings.get("has_multipliers"))


def _check_adapter(step: PlannedStep, earlier: Sequence[str], where: str) -> None:
    adapter = step.settings.get("adapter", "")
    replaced = next((name for name in earlier if name in (*REPLACING, ROTATE)), "")
    if adapter and replaced:
        raise StepError(
            f"{where}: step 'lora' merges the adapter '{adapter}', which was trained beside your "
            f"own model's layers, and '{replaced}' has replaced them by then; move 'lora' before "
            f"'{replaced}', or leave 'adapter' out to train a new one there"
        )


def _check_dense(earlier: Sequence[PlannedStep], where: str) -> None:
    for step in earlier:
        # A pattern leaves layers dense that it does not fit.
        is_all = not (step.settings.get("ignore") or step.settings.get("pattern"))
        if step.name == "sparsify" and is_all:
            raise StepError(
                f"{where}: step 'factorize' comes after 'sparsify', whose zeros are in every layer "
                "and would not stay in its factors; move 'factorize' before 'sparsify', or name "
                "the layers to factorize in the 'ignore' of 'sparsify'"
            )


def _check_unscaled(earlier: Sequence[PlannedStep], where: str) -> None:
    scaled = next((step.name for step in earlier if step.name in UNDONE_BY_ROTATION), "")
    if scaled:
        raise StepError(
            f"{where}: step '{ROTATE}' comes after '{scaled}' and would take back what that did to "
            f"channels; move '{ROTATE}' before '{scaled}'"
        )
    if any(step.name == "sparsify" for step in earlier):
        raise StepError(
            f"{where}: step '{ROTATE}' comes after 'sparsify', whose zeros a rotation would fill; "
            f"move '{ROTATE}' before 'sparsify', or take one of the two out"
        )


def _check_rounded(step: PlannedStep, earlier: Sequence[PlannedStep], where: str) -> None:
    if step.name == SPREAD:  # powers of two for whole rows: each stays on its grid
        return
    is_grid_step = step.name in GRID_STEPS and has_rounding(step)
    on_grid = next(
        (item.name for item in earlier if item.name in GRID_STEPS and has_rounding(item)), ""
    )
    if not on_grid or (has_rounding(step) and not is_grid_step):
        return
    if is_grid_step:
        remedy = "take one out"
        if (on_grid, step.name) == (AWQ, ROUND):
            remedy = f"let '{AWQ}' scale alone (is_rounded = false), or take one out"
        twice = "stands twice" if on_grid == step.name else f"comes after '{on_grid}'"
        raise StepError(
            f"{where}: step '{step.name}' {twice}, and the second would find every weight on its "
            f"grid; {remedy}"
        )
    raise StepError(
        f"{where}: step '{step.name}' comes after '{on_grid}' and would move weights off the grid "
        f"that it put them on; move '{on_grid}' to the end of the steps on the model, or set "
        "'rounding' in what that step trains with"
    )


def _check_unrounded(step: PlannedStep, earlier: Sequence[PlannedStep], where: str) -> None:
    rounded = next((item.name for item in earlier if has_rounding(item)), "")
    if rounded:
        raise StepError(
            f"{where}: step '{step.name}' comes after '{rounded}', whose weights are on the grid "
            f"that will be stored, and would move them off it; move '{step.name}' before "
            f"'{rounded}'"
        )


def _check_student(
    step: PlannedStep, earlier: Sequence[str], where: str, *, has_student: bool
) -> None:
    kind = step.settings.get("student", "auto")
    if kind == "factory" and not has_student:
        raise StepError(
            f"{where}: step 'distil' has student = \"factory\", and the workload has no student "
            "factory; give it 'student': a function that makes the smaller model, or set student = "
            '"made"'
        )
    is_new = kind in ("factory", "made") or (kind == "auto" and has_student)
    if not (earlier and is_new):
        return
    origin = "is made of the float model" if kind == "made" else "comes from the workload's factory"
    raise StepError(
        f"{where}: step 'distil' starts from a student that {origin}, so what '{earlier[-1]}' made "
        'before it would be thrown away; distil into that with student = "current" (--set '
        "distil.student=current), move 'distil' first, or take one of the two out"
    )
