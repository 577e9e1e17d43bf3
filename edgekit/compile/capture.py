"""From a torch model to an exported program on disk, with its facts and its contract."""

import logging
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode

from edgekit.compile.facts import facts_of
from edgekit.compile.flat import flatten_interface, flatten_program
from edgekit.compile.program import PROGRAM, load_program, load_state, save_program
from edgekit.compile.silence import silence
from edgekit.core.contract import (
    DTYPES,
    Adapter,
    Contract,
    InputContract,
    InputKind,
    OutputContract,
)
from edgekit.core.errors import CompileError, WorkloadError
from edgekit.core.facts import ModelFacts
from edgekit.core.progress import Reporter
from edgekit.core.workload import Workload

__all__ = ["Captured", "capture", "load_program", "load_state", "predict_reference"]

BATCH_AXIS = "batch"
# Lines of these say nothing of the model's own code.
_NOT_THE_MODELS = (str(Path(torch.__file__).parent), str(Path(__file__).parents[1]))
SAMPLE_SEED = 0

# What a model's own code and torch raise on inputs that do not suit it.
MODEL_ERRORS = (
    RuntimeError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    AssertionError,
    ArithmeticError,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Captured:
    """What was captured; ``digest`` is sha256 of the graph's code and all weights."""

    facts: ModelFacts
    contract: Contract
    digest: str


def capture(workload: Workload, out: Path, reporter: Reporter) -> Captured:
    """Export the workload's model to ``out/model.pt2`` with flat inputs and a tuple of outputs.

    Raises: WorkloadError for a model that does not run as the workload says, gives other outputs,
    is random, or holds NaN; CompileError for one that cannot be traced.
    """
    model = _module(workload.model, reporter)
    _refuse_bad_weights(model)
    batch = 2 if workload.has_dynamic_batch else 1
    _check_dtypes(workload)
    kinds = tuple(workload.inputs.values())
    sample = calm(sample_inputs(((kind.element_shape, kind.dtype) for kind in kinds), batch), kinds)
    names = tuple(workload.inputs), tuple(workload.outputs)
    is_program = isinstance(workload.model, ExportedProgram)
    flat = (
        flatten_program(workload.model, *names) if is_program else flatten_interface(model, *names)
    )
    outputs = _run(flat, sample, workload)
    contract = _contract(workload, outputs, batch)
    # Where it fails it prints the whole graph, past its own logger.
    with _quiet(), silence():
        program = _export(flat, model, sample, is_dynamic=workload.has_dynamic_batch)
    _refuse_data_dependent_sizes(program)
    facts = facts_of(program, batch=batch)
    save_program(program, out / PROGRAM)
    return Captured(facts=facts, contract=contract, digest=facts.digest)


def predict_reference(
    model_folder: Path, batches: Iterable[Mapping[str, NDArray[Any]]], contract: Contract
) -> Iterator[dict[str, NDArray[Any]]]:
    """Outputs by contract name for batches of inputs, in float, on one thread.

    A program that was captured for a batch of one is run sample by sample.
    Shapes: the first axis is the batch, on both sides.
    Raises: WorkloadError for inputs that are not the contract's.
    """
    module = load_program(model_folder / PROGRAM).module()
    threads = torch.get_num_threads()
    # The order of sums, so the last bit of the result, follows the number of threads.
    torch.set_num_threads(1)
    try:
        for batch in batches:
            yield _predict(module, batch, contract)
    finally:
        torch.set_num_threads(threads)


def _predict(
    module: nn.Module, batch: Mapping[str, NDArray[Any]], contract: Contract
) -> dict[str, NDArray[Any]]:
    inputs = [_tensor(batch, item) for item in contract.inputs]
    with torch.no_grad():
        if contract.has_dynamic_batch:
            found = module(*inputs)
        else:
            rows = [
                module(*row) for row in zip(*(torch.split(item, 1) for item in inputs), strict=True)
            ]
            found = tuple(torch.cat(column) for column in zip(*rows, strict=True))
    return {item.name: value.numpy() for item, value in zip(contract.outputs, found, strict=True)}


def _tensor(batch: Mapping[str, NDArray[Any]], item: InputContract) -> Tensor:
    value = batch.get(item.name)
    if value is None:
        raise WorkloadError(f"input '{item.name}' is missing; there are: {', '.join(batch)}")
    if value.dtype.name != item.dtype or value.shape[1:] != item.shape[1:]:
        raise WorkloadError(
            f"input '{item.name}' is {value.dtype} {list(value.shape)}; the model takes "
            f"{item.dtype} {list(item.shape)}"
        )
    return torch.from_numpy(np.array(value, order="C"))


def sample_inputs(
    inputs: Iterable[tuple[tuple[int, ...], str]], batch: int, seed: int = SAMPLE_SEED
) -> tuple[Tensor, ...]:
    """Random inputs for (shape of one sample, dtype) pairs: normal floats, integers of 0 and 1.

    0 and 1 are in every vocabulary and in every mask; the first is 1, so no mask is all zeros.
    """
    generator = torch.Generator().manual_seed(seed)
    return tuple(_sample((batch, *shape), dtype, generator) for shape, dtype in inputs)


def calm(sample: Iterable[Tensor], kinds: Iterable[InputKind]) -> tuple[Tensor, ...]:
    """Random inputs with adapters no larger than real ones are."""
    pairs = zip(sample, kinds, strict=True)
    return tuple(
        value * kind.spread if isinstance(kind, Adapter) else value for value, kind in pairs
    )


def _sample(shape: tuple[int, ...], dtype: str, generator: torch.Generator) -> Tensor:
    kind: torch.dtype = getattr(torch, dtype)
    if kind.is_floating_point:
        return torch.randn(shape, generator=generator).to(kind)
    values = torch.randint(0, 2, shape, generator=generator)
    if len(shape) > 1:
        values[:, 0] = 1
    return values.to(kind)


def _module(model: Any, reporter: Reporter) -> nn.Module:
    if isinstance(model, ExportedProgram):
        return model.module()
    if not isinstance(model, nn.Module) or isinstance(model, torch.jit.ScriptModule):
        raise WorkloadError(
            f"model is a {type(model).__name__}; it must be a torch.nn.Module or a "
            "torch.export.ExportedProgram"
        )
    original = getattr(model, "_orig_mod", None)
    module = original if isinstance(original, nn.Module) else model
    in_training = [name or "the model" for name, item in module.named_modules() if item.training]
    if in_training:
        reporter.warn(
            f"model is in training mode ({in_training[0]}, {len(in_training)} modules in all); "
            "switched it to evaluation mode: call model.eval() before handing it over"
        )
        module.eval()
    return module


def _check_dtypes(workload: Workload) -> None:
    for name, kind in workload.inputs.items():
        if kind.dtype not in DTYPES:
            raise WorkloadError(
                f"input '{name}': dtype '{kind.dtype}' is not known; allowed: {', '.join(DTYPES)}"
            )


def _refuse_bad_weights(model: nn.Module) -> None:
    for name, parameter in model.named_parameters():
        _refuse_non_finite(f"parameter '{name}'", parameter, is_infinity_allowed=False)
    for name, buffer in model.named_buffers():
        # Attention masks are buffers with infinities on purpose; statistics are not.
        is_mask = not name.endswith(("running_mean", "running_var"))
        _refuse_non_finite(f"buffer '{name}'", buffer, is_infinity_allowed=is_mask)


def _refuse_non_finite(what: str, value: Tensor, *, is_infinity_allowed: bool) -> None:
    if value.is_meta:
        raise WorkloadError(
            f"{what} {list(value.shape)} has no values (it is on the device 'meta'); load the "
            "checkpoint before handing the model over"
        )
    bad = torch.isnan(value) if is_infinity_allowed else ~torch.isfinite(value)
    count = int(bad.sum())
    if count:
        raise WorkloadError(
            f"{what} {list(value.shape)} holds NaN or infinity in {count} of {value.numel()} "
            "places; load a sound checkpoint"
        )


def _run(flat: nn.Module, sample: tuple[Tensor, ...], workload: Workload) -> tuple[Tensor, ...]:
    """The outputs in eager mode, after two runs agreed."""
    try:
        with torch.no_grad():
            first, second = flat(*sample), flat(*sample)
    except MODEL_ERRORS as error:
        given = ", ".join(
            f"{name} {value.dtype} {list(value.shape)}".replace("torch.", "")
            for name, value in zip(workload.inputs, sample, strict=True)
        )
        raise WorkloadError(
            f"the model does not run on {given}: {type(error).__name__}: {first_line(error)}"
            f"{_place(error, flat)}; compare the workload's inputs with the model's forward"
        ) from error
    for name, a, b in zip(workload.outputs, first, second, strict=True):
        if not torch.equal(torch.nan_to_num(a), torch.nan_to_num(b)):
            raise WorkloadError(
                f"output '{name}' differs between two runs on the same input: the model draws "
                "random numbers in evaluation mode; take them out, nothing else can be compared"
            )
    return tuple(first)


def _contract(workload: Workload, outputs: tuple[Tensor, ...], batch: int) -> Contract:
    head: int | str = BATCH_AXIS if workload.has_dynamic_batch else 1
    for name, value in zip(workload.outputs, outputs, strict=True):
        if value.dim() == 0 or value.shape[0] != batch:
            raise WorkloadError(
                f"output '{name}' has shape {list(value.shape)} for a batch of {batch}; its first "
                "axis must be the batch"
            )
    return Contract(
        inputs=tuple(
            InputContract(
                name=name, dtype=kind.dtype, shape=(head, *kind.element_shape), source=kind
            )
            for name, kind in workload.inputs.items()
        ),
        outputs=tuple(
            OutputContract(
                name=name,
                dtype=str(value.dtype).removeprefix("torch."),
                shape=(head, *value.shape[1:]),
                meaning=meaning,
            )
            for (name, meaning), value in zip(workload.outputs.items(), outputs, strict=True)
        ),
    )


def _export(
    flat: nn.Module, model: nn.Module, sample: tuple[Tensor, ...], *, is_dynamic: bool
) -> ExportedProgram:
    axes = {0: Dim(BATCH_AXIS, min=1)} if is_dynamic else None
    shapes = (tuple(axes for _ in sample),) if is_dynamic else None
    try:
        # Without gradients, code under its own torch.no_grad() (rotary embeddings of Llama) is no
        # subgraph with an operator of its own, which no target takes.
        with torch.no_grad():
            return torch.export.export(flat, sample, dynamic_shapes=shapes, strict=False)
    except GuardOnDataDependentSymNode as error:
        raise CompileError(
            f"the graph depends on the data{_place(error, model, flat)}: {first_line(error)}; an "
            "`if`, a loop or a size must not follow from values of a tensor: write it with "
            "torch.where or torch.cond, or keep that part outside of the model"
        ) from error
    except MODEL_ERRORS as error:
        what = "with a batch axis that varies " if is_dynamic else ""
        hint = "; has_dynamic_batch=False captures it for a batch of 1" if is_dynamic else ""
        raise CompileError(
            f"the model cannot be captured {what}as a graph{_place(error, model, flat)}: "
            f"{type(error).__name__}: {first_line(error)}{hint}"
        ) from error


def first_line(error: BaseException) -> str:
    """The first line of an error that says anything."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:300] if lines else type(error).__name__


def _place(error: BaseException, *models: nn.Module) -> str:
    """`` in 'path' (file.py:12)``: the innermost module that the error went through, and the line.

    The line is the last one outside of torch and edgekit: the model's own.
    """
    paths = {id(item): name for model in models for name, item in model.named_modules()}
    owner, line = "", ""
    trace: TracebackType | None = error.__traceback__
    while trace:
        frame = trace.tb_frame
        code = frame.f_code
        first = frame.f_locals.get(code.co_varnames[0]) if code.co_argcount else None
        if id(first) in paths:
            owner = paths[id(first)] or type(first).__name__
        if Path(code.co_filename).is_file() and not code.co_filename.startswith(_NOT_THE_MODELS):
            line = f" ({Path(code.co_filename).name}:{trace.tb_lineno})"
        trace = trace.tb_next
    return f" in '{owner}'{line}" if owner else ""


def _refuse_data_dependent_sizes(program: ExportedProgram) -> None:
    """No runtime plans memory for a size that only the data tell.

    Raises: CompileError naming the operator, and where in the model it is.
    """
    for node in program.graph.nodes:
        value = node.meta.get("val")
        if isinstance(value, Tensor) and any(_is_unknown(size) for size in value.shape):
            stack = list(node.meta.get("nn_module_stack", {}).values())
            named = f" in '{stack[-1][0]}'" if stack and stack[-1][0] else ""
            raise CompileError(
                f"the size of what {node.target} gives{named} depends on the data, as with a mask "
                "of bools for an index or nonzero; keep the size and use torch.where, or leave "
                "that part outside of the model"
            )


def _is_unknown(size: int | torch.SymInt) -> bool:
    """Whether no sample says what the size is. That of a batch axis is known from the sample."""
    return isinstance(size, torch.SymInt) and size.node.hint is None


@contextmanager
def _quiet() -> Iterator[None]:
    """torch.export speaks of its own affairs; what matters comes as errors."""
    logger = logging.getLogger("torch")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
