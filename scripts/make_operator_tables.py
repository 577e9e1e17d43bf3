"""Write targets/*/operators.toml from the registries of the installed compilers.

Every sample of torch's own operator database is exported, decomposed as the compiler does it, and
what is left is held against the compiler's lowerings:

native       the compiler has a lowering, or the operator becomes a single one that it has
             (with views and a bias around it, which every runtime folds);
fallback     it becomes several operators: right, but several kernels, each quantized for itself;
unsupported  something is left that has no lowering.

Run it after a compiler's pin moves: ``python scripts/make_operator_tables.py`` (six minutes
of a core). ``--check`` compares instead of writing.
"""

# ruff: noqa: PLC0415, SLF001 - compilers load slowly, and their registries are private
import argparse
import contextlib
import functools
import io
import logging
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from operator_samples import programs
from torch.export import ExportedProgram

ROOT = Path(__file__).resolve().parent.parent

# Operators that move or name data; no runtime spends a kernel of arithmetic on them.
_MOVES = {
    *("view", "_unsafe_view", "reshape", "permute", "transpose", "t", "unsqueeze", "squeeze"),
    *("expand", "clone", "alias", "slice", "select", "_to_copy", "detach", "contiguous", "full"),
    *("scalar_tensor", "lift_fresh_copy", "split", "split_with_sizes", "unbind", "flatten"),
    *("arange", "empty", "copy", "constant_pad_nd", "as_strided", "sym_size", "zeros", "ones"),
    *("contiguous", "type_as", "to", "detach_", "squeeze_", "unsqueeze_", "transpose_", "alias_"),
}
_CONTRACTIONS = {"mm", "bmm", "addmm", "baddbmm", "convolution", "conv2d", "matmul", "linear"}
_UNSEEN = "what torch decomposes it into"
_BIAS = {"add", "mul"}
# Taken out of the graph by the compilers: litert-torch's safe_run_decompositions takes the first
# (the others fail there), torch.onnx's remove_assertion_nodes takes all.
_CHECKS = {
    "litert": ("_assert_tensor_metadata.default",),
    "onnx": (
        *("_assert_tensor_metadata.default", "_assert_scalar.default", "_assert_async.msg"),
        *("sym_constrain_range.default", "sym_constrain_range_for_size.default"),
    ),
}
_IGNORED = ("_assert", "sym_constrain", "aten.sym_")


@dataclass(frozen=True, slots=True, kw_only=True)
class Compiler:
    """What the tables need of a compiler: its lowerings, and what it does before them."""

    target: str
    lowered: frozenset[str]
    decomposed: frozenset[str]
    decompose: Callable[[ExportedProgram], ExportedProgram]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What became of one operator; parts: what it became, or what of it has no lowering."""

    support: str
    parts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """What is known of one compiler: findings by operator, and what survives decomposition."""

    compiler: Compiler
    found: dict[str, Finding]
    survivors: set[str]


def litert_compiler() -> Compiler:
    """litert-torch: its registry, and its two rounds of decomposition."""
    from litert_torch import fx_infra
    from litert_torch.backend import lowerings

    registered = lowerings.registry.global_registry.registered_ops
    # As plain tables, once: the lazy ones are filled anew by every use.
    first = fx_infra.decomp.pre_convert_decomp().materialize()
    second = fx_infra.decomp.pre_lower_decomp().materialize()

    def decompose(program: ExportedProgram) -> ExportedProgram:
        for table in (first, second):
            program = fx_infra.safe_run_decompositions(program, dict(table), can_skip=False)
        return program

    return Compiler(
        target="litert",
        lowered=_names(registered),
        decomposed=_names(first) | _names(second),
        decompose=decompose,
    )


def onnx_compiler() -> Compiler:
    """torch.onnx with torchlib: its registry, and its decomposition of the rest."""
    from torch.onnx._internal.exporter import _decomp, _fx_passes, _registration

    registry = _registration.ONNXRegistry.from_torchlib()
    real = {
        metas[0].fx_target
        for metas in registry.functions.values()
        if not all(meta.is_complex for meta in metas)
    }
    table = _decomp.create_onnx_friendly_decomposition_table(
        set(_decomp.get_onnx_implemented_overloads(registry))
    )

    def decompose(program: ExportedProgram) -> ExportedProgram:
        return _fx_passes.decompose_with_registry(program, registry)

    return Compiler(
        target="onnx", lowered=_names(real), decomposed=_names(table), decompose=decompose
    )


def _names(operators: Any) -> frozenset[str]:
    names = {str(item) for item in operators if isinstance(item, torch._ops.OpOverload)}
    return frozenset(name for name in names if _is_listed(name))


def _is_listed(name: str) -> bool:
    """Whether an operator can stand in an exported graph of inference."""
    space, base, overload = [*name.split("."), "", ""][:3]
    is_out = overload == "out" or overload.endswith("_out")
    return space == "aten" and not is_out and "backward" not in base


def operators_of(program: ExportedProgram) -> list[str]:
    """The operators of a graph, without checks and sizes."""
    names = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    return [
        name
        for name in names
        if name.startswith("aten.") and not name.startswith(_IGNORED) and "_assert" not in name
    ]


def judge(survey: Survey, before: str, program: ExportedProgram) -> Finding:
    """What becomes of a graph of a single operator."""
    compiler = survey.compiler
    if before in compiler.lowered and before not in compiler.decomposed:
        return Finding(support="native")
    if before not in compiler.lowered | compiler.decomposed and not _can_be_traced_away(before):
        return Finding(support="unsupported", parts=(before,))
    after = decomposed_operators(compiler, program)
    if after is None:
        return Finding(support="unsupported", parts=("its decomposition, which fails",))
    survey.survivors.update(after)
    missing = sorted({name for name in after if name not in compiler.lowered})
    if missing:
        return Finding(support="unsupported", parts=tuple(missing))
    if before in after or _is_single(after):
        return Finding(support="native")
    return Finding(support="fallback", parts=tuple(sorted(set(after))))


def decomposed_operators(compiler: Compiler, program: ExportedProgram) -> list[str] | None:
    """The operators that the compiler would lower; None where decomposition fails."""
    try:
        return operators_of(compiler.decompose(program))
    except Exception:  # noqa: BLE001 - whatever a decomposition raises, it did not work
        return None


def _can_be_traced_away(name: str) -> bool:
    """Whether tracing alone replaces an operator: composite ones, and those that write in place."""
    _, base, overload = name.split(".")
    operator = getattr(getattr(torch.ops.aten, base), overload)
    return base.endswith("_") or torch._C._dispatch_has_kernel_for_dispatch_key(
        operator.name(), "CompositeImplicitAutograd"
    )


def _is_single(operators: list[str]) -> bool:
    kernels = [name.split(".")[1] for name in operators if not _is_move(name)]
    contractions = [name for name in kernels if name in _CONTRACTIONS]
    if len(contractions) == 1 and set(kernels) <= {*contractions, *_BIAS}:
        return True
    return len(kernels) <= 1


def survey_all(compilers: list[Compiler]) -> dict[str, dict[str, Finding]]:
    """By target and operator, the best that any sample showed."""
    surveys = [Survey(compiler=item, found={}, survivors=set()) for item in compilers]
    for program in programs():
        before = sorted(set(operators_of(program)))
        for survey in surveys:
            if len(before) == 1:
                _survey_one(survey, before[0], program)
            else:
                _survey_many(survey, before, program)
    for survey in surveys:
        _complete(survey)
    return {survey.compiler.target: survey.found for survey in surveys}


def _survey_one(survey: Survey, operator: str, program: ExportedProgram) -> None:
    order = ("native", "fallback", "unsupported")
    known = survey.found.get(operator)
    if known is not None and known.support == "native":
        return
    new = judge(survey, operator, program)
    if known is None or order.index(new.support) < order.index(known.support):
        survey.found[operator] = new


def _survey_many(survey: Survey, operators: list[str], program: ExportedProgram) -> None:
    """All operators of a graph that can be lowered are supported, each at least by falling back."""
    unknown = [name for name in operators if name not in survey.found]
    if not unknown:
        return
    after = decomposed_operators(survey.compiler, program)
    if after is None or not survey.compiler.lowered.issuperset(after):
        return
    survey.survivors.update(after)
    parts = tuple(sorted(set(after)))
    for name in unknown:
        if _is_move(name) or name in after or _is_single(after):
            survey.found[name] = Finding(support="native")
        else:
            survey.found[name] = Finding(support="fallback", parts=parts)


def _complete(survey: Survey) -> None:
    """Add what no sample showed: lowerings, checks, and the in-place forms of what is known."""
    compiler, found = survey.compiler, survey.found
    for name in compiler.lowered - found.keys():
        is_own = name not in compiler.decomposed or name in survey.survivors or _is_move(name)
        found[name] = Finding(support="native" if is_own else "fallback")
    for check in _CHECKS[compiler.target]:
        found[f"aten.{check}"] = Finding(support="native")
    _add_in_place(found)
    for name in compiler.decomposed - found.keys():
        found[name] = Finding(support="fallback", parts=(_UNSEEN,))
    _add_in_place(found)
    _add_siblings(found)


def _add_in_place(found: dict[str, Finding]) -> None:
    """In-place forms are as their functional ones: tracing replaces them."""
    for name in sorted(_all_operators() - found.keys()):
        base, _, overload = name.removeprefix("aten.").partition(".")
        functional = f"aten.{base.removesuffix('_')}.{overload}"
        if functional in found:
            found[name] = found[functional]


def _add_siblings(found: dict[str, Finding]) -> None:
    """A composite overload that no sample showed is as the worst of its other overloads."""
    order = ("native", "fallback", "unsupported")
    by_base: dict[str, list[Finding]] = {}
    for name, finding in found.items():
        by_base.setdefault(name.split(".")[1], []).append(finding)
    for name in sorted(_all_operators() - found.keys()):
        siblings = by_base.get(name.split(".")[1], [])
        if siblings and _can_be_traced_away(name):
            worst = max(order.index(item.support) for item in siblings)
            found[name] = min(
                (item for item in siblings if item.support == order[worst]),
                key=lambda item: item.parts,
            )


def _is_move(name: str) -> bool:
    return name.split(".")[1] in _MOVES


def _all_operators() -> set[str]:
    names = set()
    for full in torch._C._dispatch_get_all_op_names():
        space, _, rest = full.partition("::")
        base, _, overload = rest.partition(".")
        if space == "aten":
            names.add(f"aten.{base}.{overload or 'default'}")
    return {name for name in names if _is_listed(name)}


def render(found: dict[str, Finding]) -> str:
    """The text of operators.toml."""
    lines = [
        "# Which PyTorch operators this target takes; an operator in no list is unsupported.",
        "# Written by scripts/make_operator_tables.py from the installed compiler; do not edit.",
        "schema = 1",
    ]
    for support in ("native", "fallback", "unsupported"):
        names = sorted(name for name, item in found.items() if item.support == support)
        lines += ["", f"{support} = [", *(f'  "{name}",' for name in names), "]"]
    lines += ["", "[notes]"]
    for name in sorted(found):
        if found[name].parts:
            verb = "becomes" if found[name].support == "fallback" else "no lowering for"
            parts = [
                part.removeprefix("aten.").removesuffix(".default") for part in found[name].parts
            ]
            shown = ", ".join(parts[:6]) + (f" and {len(parts) - 6} more" if len(parts) > 6 else "")
            lines.append(f'"{name}" = "{verb} {shown}"')
    return "\n".join(lines) + "\n"


def main() -> int:
    """Write or compare both tables; 1 when a committed table is not what the compilers say."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    torch.manual_seed(0)
    # torch lists all composite operators anew for every graph: most of the time goes there.
    utils = torch._export.utils
    utils._collect_all_valid_cia_ops_for_namespace = functools.cache(
        utils._collect_all_valid_cia_ops_for_namespace
    )
    differences = 0
    # ONNX first: litert-torch's decomposition writes into the graph that it reads.
    with contextlib.redirect_stdout(io.StringIO()):  # its progress lines
        tables = survey_all([onnx_compiler(), litert_compiler()])
    for target, found in sorted(tables.items()):
        path = ROOT / "targets" / target / "operators.toml"
        text = render(found)
        if arguments.check:
            is_same = path.is_file() and path.read_text(encoding="utf-8") == text
            differences += not is_same
            print(f"{path.relative_to(ROOT)}: {'as committed' if is_same else 'DIFFERS'}")
        else:
            path.write_text(text, encoding="utf-8")
            print(f"{path.relative_to(ROOT)}: {len(found)} operators")
    return 1 if differences else 0


if __name__ == "__main__":
    sys.exit(main())
