"""What the quantize step does to an ONNX graph, by precision and kind of activations."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx

from edgekit.compile.calibration import Calibrated, Watched
from edgekit.compile.onnx_adapters import adapter_nodes, close_moves
from edgekit.compile.onnx_dynamic import (
    DYNAMIC_OPERATORS,
    EMBEDDING_BLOCK,
    FLOAT_COMPUTE,
    INTEGER_COMPUTE,
    move_to_int4_grid,
    quantize_at_run_time,
    quantize_in_blocks,
    split_gemms,
)
from edgekit.compile.onnx_float16 import compute_in_float16
from edgekit.compile.onnx_islands import float_islands, keep_floats_whole
from edgekit.compile.onnx_layers import (
    Kind,
    Layer,
    assign_precision,
    describe,
    find_layers,
    told_of_filled_rows,
    weights_with,
)
from edgekit.compile.onnx_model import initializers, name_nodes
from edgekit.compile.onnx_names import follow_names
from edgekit.compile.onnx_pads import keep_pads_in_integers
from edgekit.compile.onnx_ranges import Samples, watch
from edgekit.compile.onnx_small_floats import store_small_floats
from edgekit.compile.onnx_static import (
    OPERATORS,
    STATIC_KINDS,
    StaticPlan,
    preprocess,
    quantize,
)
from edgekit.compile.onnx_store import narrow_to_int4, store_as_float16, store_as_integers
from edgekit.compile.onnx_trained import trained_ranges
from edgekit.core.precision import INTEGERS, STORED_ONLY
from edgekit.core.progress import Reporter
from edgekit.core.strategy import LayerPrecision, Quantize
from edgekit.graph.ranges import TrainedRange

# What ONNX Runtime's integer kernels and its integer Pad take on the CPU.
_KERNEL_BITS = 8
_WIDE = (
    "activations of 16 bits are rounded to integers and computed with as floats: ONNX Runtime has "
    "no 16-bit kernels on the CPU, so they cost time there"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantized:
    """A graph after the step: constants' module paths, and what the user should know.

    calibrated: the ranges of static activations; None for others.
    """

    model: onnx.ModelProto
    paths: dict[str, str]
    notes: tuple[str, ...]
    calibrated: Calibrated | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """One graph under way: its layers and what each is to become."""

    model: onnx.ModelProto
    layers: tuple[Layer, ...]
    chosen: Mapping[str, LayerPrecision]
    settings: Quantize
    scratch: Path

    def pick(self, *precisions: str, kinds: tuple[str, ...] = ()) -> tuple[Layer, ...]:
        """The layers that are to have one of these precisions, of these kinds or of any."""
        found = weights_with(self.layers, self.chosen, *precisions)
        return tuple(layer for layer in found if not kinds or layer.kind in kinds)


def apply(
    model: onnx.ModelProto,
    paths: Mapping[str, str],
    settings: Quantize,
    samples: Samples,
    scratch: Path,
    trained: Sequence[TrainedRange] = (),
) -> Quantized:
    """Quantize a float graph as the settings ask; what could not be done is in the notes.

    trained: ranges of activations, which win over the calibration's.
    Raises: StepError for settings or calibration data that cannot be used.
    """
    reporter = samples.reporter
    name_nodes(model)
    has_integers = settings.precision in INTEGERS
    is_static = has_integers and settings.activations == "static"
    if is_static:
        model = preprocess(model, scratch)
        name_nodes(model)
        paths = follow_names(model, paths)
    elif has_integers and (settings.activations == "dynamic" or settings.block_size):
        split_gemms(model)
    layers = find_layers(model, paths)
    work = Work(
        model=model,
        layers=layers,
        chosen=assign_precision(layers, settings, reporter),
        settings=settings,
        scratch=scratch,
    )
    calibrated = None
    # Integer kernels of matrices take no blocks; rows of embeddings have them all the same.
    kinds: tuple[Kind, ...] = ("embedding",) if is_static else ("matrix", "embedding")
    in_blocks = work.pick("int4", kinds=kinds) if has_integers else ()
    filled_up = told_of_filled_rows(model, in_blocks, settings.block_size)
    if settings.precision == "fp16":
        result, notes = _to_float16(work)
    elif not has_integers:
        result, notes = _to_small_floats(work)
    elif is_static:
        result, notes, calibrated = _to_static(work, samples, trained)
    elif settings.activations == "dynamic":
        result, notes = _to_dynamic(work, reporter)
    else:
        result, notes = _to_weights_only(work)
    notes += [*filled_up, *_left_float(result, work)]
    return Quantized(
        model=result,
        paths=follow_names(result, paths),
        notes=tuple(notes),
        calibrated=calibrated,
    )


def watch_static(
    model: onnx.ModelProto,
    paths: Mapping[str, str],
    settings: Quantize,
    samples: Samples,
    scratch: Path,
) -> tuple[onnx.ModelProto, Watched]:
    """The float graph as static quantization sees it, and the tensors that it calibrates."""
    name_nodes(model)
    model = preprocess(model, scratch)
    name_nodes(model)
    layers = find_layers(model, follow_names(model, paths))
    work = Work(
        model=model,
        layers=layers,
        chosen=assign_precision(layers, settings, samples.reporter),
        settings=settings,
        scratch=scratch,
    )
    plan, _ = static_plan(work, samples.adapter)
    return model, watch(model, OPERATORS, excluded=plan.excluded)


def _to_float16(work: Work) -> tuple[onnx.ModelProto, list[str]]:
    integers = work.pick(*INTEGERS)
    if work.settings.activations != "none":
        result = compute_in_float16(work.model, work.pick("float", *INTEGERS, *STORED_ONLY))
        store_as_integers(result, integers, work.chosen)
        return result, _small(result, work)
    apart = {layer.weight for layer in work.pick("float", *INTEGERS, *STORED_ONLY)}
    names = [name for name in initializers(work.model) if name not in apart]
    store_as_integers(work.model, integers, work.chosen)
    return work.model, _half(work.model, names) + _small(work.model, work)


def _to_small_floats(work: Work) -> tuple[onnx.ModelProto, list[str]]:
    store_as_integers(work.model, work.pick(*INTEGERS), work.chosen)
    return work.model, _floats(work.model, work)


def _floats(model: onnx.ModelProto, work: Work) -> list[str]:
    """Layers that stay floats, stored as such in fewer bits."""
    return _half(model, [item.weight for item in work.pick("fp16")]) + _small(model, work)


def _half(model: onnx.ModelProto, names: list[str]) -> list[str]:
    refused = store_as_float16(model, names)
    return [f"stay float32, past float16's range: {', '.join(refused)}"] if refused else []


def _small(model: onnx.ModelProto, work: Work) -> list[str]:
    layers, settings = work.pick(*STORED_ONLY), work.settings
    # Blocks of other precisions are none of NF4's.
    block = settings.block_size if settings.precision == "nf4" else 0
    return store_small_floats(model, layers, work.chosen, block)


def static_plan(work: Work, adapter: str = "") -> tuple[StaticPlan, frozenset[str]]:
    """What the static quantizer is to do, and the nodes that stay float between integers."""
    model = work.model
    picked = work.pick("int8", "int4", kinds=STATIC_KINDS)
    ours = {name for layer in picked for name in layer.nodes}
    layers = {name for layer in work.layers for name in layer.nodes}
    floats = adapter_nodes(model, adapter) if adapter else frozenset[str]()
    islands = frozenset[str]() if work.settings.is_integer_only else float_islands(model)
    plan = StaticPlan(
        int8=work.pick("int8", kinds=STATIC_KINDS),
        int4=work.pick("int4", kinds=STATIC_KINDS),
        excluded=tuple(
            node.name
            for node in model.graph.node
            if node.name in floats
            or node.name in islands
            or (node.name not in ours and (node.op_type == "Gather" or node.name in layers))
        ),
        has_float_products=bool(islands),
    )
    return plan, floats


def _to_static(
    work: Work, samples: Samples, trained: Sequence[TrainedRange]
) -> tuple[onnx.ModelProto, list[str], Calibrated]:
    notes = list[str]()
    plan, floats = static_plan(work, samples.adapter)
    if work.settings.block_size and any(layer.kind == "matrix" for layer in plan.int4):
        notes.append(
            "static INT4 matrices have one scale a channel: integer kernels take no blocks"
        )
    found = trained_ranges(work.model, trained, samples, excluded=plan.excluded)
    notes += [found.note()] if trained else []
    result, calibrated = quantize(
        work.model, plan, work.settings, samples, work.scratch, known=found.known
    )
    narrow_to_int4(result, [f"{layer.weight}_quantized" for layer in plan.int4])
    if work.settings.activation_bits == _KERNEL_BITS:
        keep_pads_in_integers(result)
    else:
        notes.append(_WIDE)
    close_moves(result, floats)
    if plan.has_float_products:
        keep_floats_whole(result, frozenset(plan.excluded))
    result = _block_embeddings(work, result)
    recurrent = work.pick("int8", "int4", kinds=("recurrent",))
    rows = work.pick("int8", kinds=("embedding",))
    products = work.pick("int8", "int4", kinds=("einsum",))
    store_as_integers(result, (*rows, *recurrent, *products), work.chosen)
    if products:
        notes.append(f"only the weights are integers, with no static kernel: {describe(products)}")
    if recurrent:
        notes.append(f"only the weights are integers in recurrent layers: {describe(recurrent)}")
    notes += [*_floats(result, work), *calibrated.notes]
    return result, notes, calibrated


def _block_embeddings(work: Work, model: onnx.ModelProto) -> onnx.ModelProto:
    """Rows of INT4 embeddings in blocks."""
    layers = work.pick("int4", kinds=("embedding",))
    if not layers:
        return model
    block = work.settings.block_size or EMBEDDING_BLOCK
    return quantize_in_blocks(model, layers, block, FLOAT_COMPUTE)


def _to_dynamic(work: Work, reporter: Reporter) -> tuple[onnx.ModelProto, list[str]]:
    store_as_integers(work.model, work.pick("int8", kinds=("embedding",)), work.chosen)
    model, notes = work.model, list[str]()
    matrices = work.pick("int4", kinds=("matrix",))
    in_blocks = tuple(item for item in matrices if work.settings.block_size)
    matrices = tuple(item for item in matrices if item not in in_blocks)
    kept = onnx.ModelProto.FromString(model.SerializeToString())
    eights = tuple(
        layer
        for layer in work.pick("int8")
        if layer.operator in DYNAMIC_OPERATORS
        # Asked for INT4, nobody asked for slow 8-bit convolutions: they keep small weights only.
        and (layer.kind == "matrix" or work.settings.precision == "int8")
    )
    chosen = (*eights, *matrices)
    if chosen:
        model = quantize_at_run_time(model, chosen, work.scratch, work.settings)
    narrow_to_int4(model, move_to_int4_grid(model, kept, matrices))
    # After the run-time quantizer: it knows no types behind operators that are not ONNX's own.
    model = _block_embeddings(work, model)
    if in_blocks:
        model = quantize_in_blocks(model, in_blocks, work.settings.block_size, INTEGER_COMPUTE)
    convolutions = [layer for layer in eights if layer.kind in ("conv", "depthwise")]
    if convolutions:
        # FINDINGS.md, 2026-11: quantize_dynamic on conv nets was 8 times slower than float.
        slow = "dynamic INT8 convolutions run several times slower than float in ONNX Runtime"
        reporter.warn(f"{slow}: choose static activations")
        notes.append(slow)
    rest = tuple(
        layer
        for layer in work.pick("int8", "int4")
        if layer.weight in initializers(model) and layer not in chosen
    )
    store_as_integers(model, rest, work.chosen)
    if rest:
        notes.append(f"only the weights are integers, with no dynamic kernel: {describe(rest)}")
    return model, notes + _floats(model, work)


def _to_weights_only(work: Work) -> tuple[onnx.ModelProto, list[str]]:
    store_as_integers(work.model, work.pick("int8", kinds=("embedding",)), work.chosen)
    model, notes = _block_embeddings(work, work.model), list[str]()
    matrices = tuple(
        layer for layer in work.pick("int4", kinds=("matrix",)) if layer.operator == "MatMul"
    )
    if matrices and work.settings.block_size:
        model = quantize_in_blocks(model, matrices, work.settings.block_size, FLOAT_COMPUTE)
    rest = [item for item in work.pick("int8", "int4") if item.weight in initializers(model)]
    store_as_integers(model, rest, work.chosen)
    return model, notes + _floats(model, work)


def _left_float(model: onnx.ModelProto, work: Work) -> list[str]:
    constants = initializers(model)
    left = [
        layer
        for layer in work.pick("int8", "int4")
        if layer.weight in constants and constants[layer.weight].data_type == onnx.TensorProto.FLOAT
    ]
    return [f"stay float, not taken by ONNX Runtime's quantizer: {describe(left)}"] if left else []
