"""What planning needs to know of a model, with no framework attached."""

from dataclasses import dataclass
from typing import Literal

LayerKind = Literal["conv", "depthwise", "linear", "embedding", "recurrent", "other"]
ModelFamily = Literal["convnet", "transformer", "mlp", "other"]


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorFact:
    """One operator call of the captured graph: ``aten.conv2d.default`` at a module path."""

    operator: str
    module_path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerFact:
    """One layer with weights. macs: multiply-accumulates a sample."""

    module_path: str
    kind: LayerKind
    weight_shape: tuple[int, ...]
    parameters: int
    macs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """The model in numbers.

    peak_activation_bytes: the largest sum of live float activations of one sample in the captured
    order. digest: sha256 of the graph's code and all weights.
    """

    family: ModelFamily
    parameters: int
    weight_bytes: int
    macs: int
    peak_activation_bytes: int
    operators: tuple[OperatorFact, ...]
    layers: tuple[LayerFact, ...]
    source_format: Literal["torch", "onnx", "tflite"]
    digest: str
