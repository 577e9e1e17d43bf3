"""How the weights of an artifact are computed with, held against what was asked."""

from collections.abc import Iterator

from edgekit.core.precision import INTEGERS, STORED_ONLY
from edgekit.graph.weights import WeightLayer
from edgekit.measure.audit_finding import Finding, finding_of
from edgekit.measure.audit_match import Pair
from edgekit.measure.audit_subject import COMPUTED_AS_FLOATS, Subject
from edgekit.runtime.litert_widen import four_bit_weights

_FLOAT_COMPUTE = "float activations"
_WIDE_ACTIVATIONS = 16
# By whether activations are integers: what computes, what a session does, and how much it wins.
_WIDENED = {
    True: ("int8", "runs INT8's kernels in INT8's memory and the file's beside it", "several"),
    False: (
        "float32",
        "LiteRT makes floats of those once, in float's memory and the file's beside it",
        "many",
    ),
}
COMPUTE_KINDS = ("float compute", "activations")


def compute_findings(subject: Subject) -> Iterator[Finding]:
    """What is stored for its bytes alone, and what computes otherwise than asked."""
    yield from _stored_alone(subject)
    yield from _widened_to_run(subject)
    yield from _compute(subject)


def _compute(subject: Subject) -> Iterator[Finding]:
    """Operators that do not compute with the activations that were asked."""
    activations = subject.settings.activations
    unsupported = []
    for pair in computing(subject):
        layer = pair.layer
        asked = subject.wanted(layer)
        if activations == "none" or asked not in INTEGERS or layer.precision in COMPUTED_AS_FLOATS:
            continue  # floats were asked, or are named already as weights that stayed
        wanted = f"{_bits_text(subject)}{activations} integer activations"
        if not layer.is_integer and _has_no_integer_kernel(subject, layer):
            unsupported.append(layer)
        elif layer.activations not in (activations, "none"):
            found = f"{layer.activations} integer activations"
            yield finding_of(subject, layer, "activations", wanted, found, "counted", "")
        elif layer.activation_bits not in (0, subject.settings.activation_bits):
            found = f"{layer.activation_bits}-bit {layer.activations} integer activations"
            yield finding_of(subject, layer, "activations", wanted, found, "counted", "")
        elif not layer.is_integer:
            why = "; its weights are dequantized and multiplied as floats"
            yield finding_of(
                subject, layer, "float compute", wanted, _FLOAT_COMPUTE, "counted", why
            )
    if unsupported:
        yield _unsupported(subject, unsupported)


def _bits_text(subject: Subject) -> str:
    return "16-bit " if subject.settings.activation_bits == _WIDE_ACTIVATIONS else ""


def _stored_alone(subject: Subject) -> Iterator[Finding]:
    """One note for all layers whose small floats are widened before anything is computed."""
    layers = [pair.layer for pair in subject.distinct if _is_stored_alone(subject, pair.layer)]
    if not layers:
        return
    formats = ", ".join(sorted({layer.precision for layer in layers}))
    share = sum(subject.share(layer) for layer in layers)
    count = f"{len(layers)} weights are" if len(layers) > 1 else "1 weight is"
    how = "when the model is loaded" if subject.graph.format == "onnx" else "at every run"
    yield Finding(
        kind="stored alone",
        layer=", ".join(dict.fromkeys(subject.path(layer) for layer in layers)),
        wanted=f"{formats} weights",
        found="float32 compute",
        share=share,
        message=(
            f"{count} stored as {formats} ({share:.1%} of all), widened to float32 {how} and "
            "computed with as such: they win bytes of the file and no speed"
        ),
        severity="note",
    )


def _widened_to_run(subject: Subject) -> Iterator[Finding]:
    """A note for the layers of a .tflite that a session runs in more bits than stored."""
    if subject.graph.format != "tflite":
        return
    widened = four_bit_weights(subject.graph).widened
    layers = [pair.layer for pair in subject.distinct if pair.layer.key in widened]
    for is_integer, (compute, runs, alone) in _WIDENED.items():
        group = [layer for layer in layers if layer.is_integer == is_integer]
        if not group:
            continue
        share = sum(subject.share(layer) for layer in group)
        noun = "convolution" if is_integer else "layer"
        count = f"{len(group)} {noun}s" if len(group) > 1 else f"1 {noun}"
        yield Finding(
            kind="widened to run",
            layer=", ".join(dict.fromkeys(subject.path(layer) for layer in group)),
            wanted="int4 weights",
            found=f"int4 weights, {compute} compute",
            share=share,
            message=(
                f"{count} with int4 weights ({share:.1%} of all): edgekit's runtime widens them to "
                f"int8 when it opens the model, and {runs}; LiteRT alone unpacks them at every "
                f"run, and takes {alone} times as long"
            ),
            severity="note",
        )


def _is_stored_alone(subject: Subject, layer: WeightLayer) -> bool:
    return subject.wanted(layer) in STORED_ONLY and subject.is_as_asked(layer)


def _has_no_integer_kernel(subject: Subject, layer: WeightLayer) -> bool:
    """Whether ONNX Runtime can only widen these weights: 4 bits, einsum, most recurrent layers.

    So it does beside activations of 16 bits: its integer kernels on the CPU take 8.

    Convolutions at 8 bits beside 4-bit matrices are stored so too: with activations scaled at run
    time they would be several times slower than float.
    """
    if subject.graph.format != "onnx":
        return False
    if layer.activation_bits == _WIDE_ACTIVATIONS == subject.settings.activation_bits:
        return True
    is_convolution = layer.kind in ("conv", "depthwise")
    asked = subject.settings
    if is_convolution and (asked.precision, asked.activations) == ("int4", "dynamic"):
        return True
    is_float_cell = layer.kind == "recurrent" and (
        layer.operator.name != "LSTM" or subject.settings.activations == "static"
    )
    return layer.precision == "int4" or is_float_cell or layer.operator.name == "Einsum"


def _unsupported(subject: Subject, layers: list[WeightLayer]) -> Finding:
    """One note for all: the engine has no kernel for it, so it is no layer's fault."""
    names = ", ".join(dict.fromkeys(subject.path(layer) for layer in layers))
    share = sum(subject.share(layer) for layer in layers)
    count = f"{len(layers)} weights are" if len(layers) > 1 else "1 weight is"
    return Finding(
        kind="float compute",
        layer=names,
        wanted=f"{subject.settings.activations} integer activations",
        found=_FLOAT_COMPUTE,
        share=share,
        message=(
            f"{count} computed with in float ({share:.1%} of all): ONNX Runtime has no integer "
            "kernel for 4 bits, activations of 16 bits, einsum or recurrent layers like these, nor "
            "a fast one for convolutions with activations scaled at run time; they win bytes only: "
            f"{names}"
        ),
        severity="note",
    )


def computing(subject: Subject) -> list[Pair]:
    """Every use of a counted weight that multiplies; an embedding only looks up."""
    return [
        pair
        for pair in subject.pairs
        if subject.is_counted(pair.layer) and pair.layer.kind != "embedding"
    ]
