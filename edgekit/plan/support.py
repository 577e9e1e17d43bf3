"""Every operator of a model held against a target, before any long work."""

from collections import defaultdict
from dataclasses import dataclass

from edgekit.core.errors import CompileError
from edgekit.core.facts import ModelFacts
from edgekit.core.target import OperatorSupport, Target


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorUse:
    """One operator of a model: where it stands, and how the target takes it."""

    operator: str
    module_paths: tuple[str, ...]
    support: OperatorSupport


def operator_uses(facts: ModelFacts, target: Target) -> tuple[OperatorUse, ...]:
    """The model's distinct operators in order of appearance; empty for a graph source.

    A model that came as an artifact of the target's own format is in that format already.
    """
    if facts.source_format != "torch":
        return ()
    paths: dict[str, list[str]] = defaultdict(list)
    for item in facts.operators:
        paths[item.operator].append(item.module_path)
    return tuple(
        OperatorUse(operator=name, module_paths=tuple(where), support=target.support_of(name))
        for name, where in paths.items()
    )


def require_support(facts: ModelFacts, target: Target) -> None:
    """Refuse a model with operators that the target does not take.

    Raises: CompileError naming each operator and the module that calls it.
    """
    missing = [use for use in operator_uses(facts, target) if use.support.support == "unsupported"]
    if not missing:
        return
    lines = []
    for use in missing:
        where = ", ".join(path or "(top level)" for path in sorted(set(use.module_paths))[:3])
        more = len(set(use.module_paths)) - 3
        where += f" and {more} more" if more > 0 else ""
        lines.append(f"  {use.operator} in {where}: {use.support.note or 'no lowering'}")
    listed = "\n".join(lines)
    raise CompileError(
        f"target {target.name} does not support {len(missing)} operator(s) of this model:\n"
        f"{listed}\nreplace these operators, or try another target (`edgekit plan` shows each)"
    )
