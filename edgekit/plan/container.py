"""What a model file takes beside its weights: operators, tensors, shapes and scales.

It hardly shrinks with the width of a model and is most of a small file, so small budgets want
fewer layers.
"""

from dataclasses import dataclass

from edgekit.core.facts import LayerFact, ModelFacts
from edgekit.core.strategy import Quantize

# The rule by which a made student's file is foreseen before it is exported
# (``Count.artifact_bytes``, ``shrink_to``): a layer with its operators and its channels' scales,
# above all that stripped .tflite files of ResNets of 10 to 22 layers took (457 to 628 bytes).
STUDENT_FILE_BYTES = 1_250
STUDENT_LAYER_BYTES = 650


@dataclass(frozen=True, slots=True, kw_only=True)
class Container:
    """Bytes of a stripped file beside its weights: once, and for each of what it holds.

    a_layer: with weights. an_operator: any other call of the captured graph that stays one.
    a_channel: of the layers' outputs. a_row: of an embedding.
    """

    a_file: float
    a_layer: float
    an_operator: float
    a_channel: float
    a_row: float = 0.0

    def structure_bytes(self, layers: int, operators: float) -> float:
        """What stays however narrow the layers get."""
        return self.a_file + self.a_layer * layers + self.an_operator * operators


# Least squares over 13 small nets (ResNets of 8, 14 and 20 layers, plain and depthwise convolutions
# of 4 to 18 layers, MLPs of 3 and 8, encoders of 1 and 3), each exported, quantized and stripped:
# litert-torch 0.10.0, ai-edge-quantizer 0.10.0, onnxruntime 1.31.1, 2026-11. The largest error of
# a whole file was 7%.
CONTAINERS = {
    ("tflite", "float"): Container(a_file=650, a_layer=170, an_operator=220, a_channel=0),
    ("tflite", "none"): Container(a_file=730, a_layer=215, an_operator=235, a_channel=2),
    ("tflite", "dynamic"): Container(
        a_file=1130, a_layer=170, an_operator=250, a_channel=5, a_row=12
    ),
    ("tflite", "static"): Container(
        a_file=1250, a_layer=195, an_operator=270, a_channel=10.3, a_row=12
    ),
    ("onnx", "float"): Container(a_file=100, a_layer=75, an_operator=40, a_channel=0),
    ("onnx", "none"): Container(a_file=100, a_layer=120, an_operator=45, a_channel=0),
    ("onnx", "dynamic"): Container(a_file=100, a_layer=310, an_operator=60, a_channel=2, a_row=4),
    ("onnx", "static"): Container(a_file=115, a_layer=135, an_operator=200, a_channel=8.9, a_row=4),
}
_UNKNOWN = Container(a_file=1000, a_layer=250, an_operator=200, a_channel=4)

# Calls that the exporters fold into a layer or leave out.
_FOLDED = frozenset(
    ("batch_norm", "dropout", "contiguous", "clone", "alias", "detach", "to", "_to_copy", "getitem")
)
# LiteRT writes these into the operator before them, ONNX as operators of their own.
_FUSED = frozenset(("relu", "relu_", "relu6", "hardtanh", "clamp"))
# These become several operators.
_SEVERAL = {"layer_norm": 1.5, "scaled_dot_product_attention": 1.5}
_WITH_WEIGHTS = ("conv", "linear", "addmm", "embedding", "lstm", "gru", "rnn")


def container_of(model_format: str, settings: Quantize | None) -> Container:
    """The container of a format at what is done to activations; settings None is float."""
    kind = "float" if settings is None else settings.activations
    return CONTAINERS.get((model_format, kind), _UNKNOWN)


def container_bytes(facts: ModelFacts, model_format: str, settings: Quantize | None) -> float:
    """About what a stripped file takes beside its weights. Estimated.

    Source: ``CONTAINERS``, fitted to files that edgekit built.
    """
    container = container_of(model_format, settings)
    structure = structure_bytes(facts, model_format, settings)
    scales = sum(_scale_bytes(layer, container) for layer in facts.layers)
    return structure + scales


def structure_bytes(facts: ModelFacts, model_format: str, settings: Quantize | None) -> float:
    """The part of it that stays however narrow the layers get. Estimated."""
    operators = sum(_operators_of(item.operator, model_format) for item in facts.operators)
    container = container_of(model_format, settings)
    return container.structure_bytes(len(facts.layers), operators)


def _scale_bytes(layer: LayerFact, container: Container) -> float:
    channels = layer.weight_shape[0] if layer.weight_shape else 1
    return channels * (container.a_row if layer.kind == "embedding" else container.a_channel)


def _operators_of(operator: str, model_format: str) -> float:
    # "aten.conv2d.default"; operators of model files have no dots.
    name = operator.removeprefix("aten.").partition(".")[0].lower()
    is_fused = name in _FUSED and model_format == "tflite"
    if name in _FOLDED or is_fused or name.startswith(_WITH_WEIGHTS):
        return 0.0
    return _SEVERAL.get(name, 1.0)
