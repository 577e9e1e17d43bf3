"""Facts, profiles and targets made by hand for the tests of planning."""

from dataclasses import dataclass

from edgekit.core.facts import LayerFact, ModelFacts, OperatorFact
from edgekit.core.profile import DeviceProfile, Fact, Hardware
from edgekit.core.strategy import ActsOn, Step, StepSpec
from edgekit.core.target import (
    OperatorSupport,
    PrecisionSupport,
    RuntimeLibrary,
    Target,
    Toolchain,
)
from edgekit.core.verdict import EvidenceKind, Limit, Sense


@dataclass(frozen=True, slots=True, kw_only=True)
class PruneSettings:
    """Settings of the step that these tests install."""

    ratio: float = 0.5


def layer(path, kind, shape, macs=0):
    count = 1
    for length in shape:
        count *= length
    return LayerFact(module_path=path, kind=kind, weight_shape=shape, parameters=count, macs=macs)


def facts(
    family="convnet",
    operators=("aten.conv2d.default", "aten.relu.default"),
    layers=None,
    source_format="torch",
):
    chosen = layers or (
        layer("stem", "conv", (16, 3, 3, 3), 1000),
        layer("body", "conv", (64, 16, 3, 3), 9000),
        layer("head", "linear", (10, 64), 640),
    )
    parameters = sum(item.parameters for item in chosen) + 10
    return ModelFacts(
        family=family,
        parameters=parameters,
        weight_bytes=4 * parameters,
        macs=10_640,
        peak_activation_bytes=40_000,
        operators=tuple(OperatorFact(operator=name, module_path="body") for name in operators),
        layers=chosen,
        source_format=source_format,
        digest="d" * 64,
    )


def profile(family="phone", architecture="aarch64", features=("dotprod",), steps=None, abi="a"):
    limit = Limit(
        figure="artifact_bytes",
        sense=Sense.AT_MOST,
        bound=1e8,
        unit="bytes",
        accepts=(EvidenceKind.HOST,),
    )
    return DeviceProfile(
        name="dev",
        title="A device",
        family=family,
        hardware=Hardware(
            abi=abi,
            architecture=Fact(value=architecture, source="s"),
            features=Fact(value=features, source="s"),
        ),
        default_target="litert",
        limits=(limit,),
        steps=steps
        if steps is not None
        else (
            Step(name="distil", when="training data", reason="keeps quality"),
            Step(name="quantize", is_required=True, settings={"precision": "int8"}),
        ),
    )


def target(name="litert", form="tflite", precisions=("int8", "int4", "fp16")):
    return Target(
        name=name,
        title=name,
        format=form,
        suffix=f".{form}",
        compiler=name,
        runtime=name,
        runtime_package="r",
        minimum_runtime_version="1",
        toolchain=Toolchain(requirements=()),
        runtime_libraries=(
            RuntimeLibrary(abi="a", bytes=5_000_000, version="1", sha256="0" * 64, source="s"),
        ),
        precisions=tuple(PrecisionSupport(precision=item, layers=("conv",)) for item in precisions),
        operators=(
            OperatorSupport(name="aten.conv2d.default", support="native"),
            OperatorSupport(name="aten.relu.default", support="fallback"),
        ),
    )


INSTALLED = {
    "quantize": StepSpec(
        name="quantize",
        acts_on=ActsOn.GRAPH,
        handler="",
        settings="edgekit.core.strategy:Quantize",
        summary="s",
    ),
    "prune": StepSpec(
        name="prune",
        acts_on=ActsOn.MODULE,
        handler="x:y",
        settings="tests.plan.builders:PruneSettings",
        summary="s",
        is_training=True,
    ),
}
