"""What a manifest must say beyond its schema."""

from dataclasses import replace

import pytest

from edgekit.bundle.rules import manifest_fault
from edgekit.core.artifact import Binding
from edgekit.core.contract import Image, Text
from tests.bundle import samples

GOOD = samples.listed(samples.manifest(), samples.FILES)
(COMPONENT,) = GOOD.components
(INPUT,) = COMPONENT.contract.inputs
(OUTPUT,) = COMPONENT.contract.outputs


def component(**changes):
    return replace(GOOD, components=(replace(COMPONENT, **changes),))


def artifact(**changes):
    return component(artifact=replace(COMPONENT.artifact, **changes))


def contract(**changes):
    return component(contract=replace(COMPONENT.contract, **changes))


def an_input(**changes):
    return contract(inputs=(replace(INPUT, **changes),))


def golden(**changes):
    return replace(GOOD, golden=replace(GOOD.golden, **changes))


def first_file(**changes):
    return replace(GOOD, files=(replace(GOOD.files[0], **changes), *GOOD.files[1:]))


def image(**changes):
    source = Image(height=2, width=2, **changes)
    return an_input(shape=(1, 3, 2, 2), source=source)


FAULTS = [
    (replace(GOOD, files=()), "lists 0 files"),
    (first_file(path="../x"), "path '../x'"),
    (first_file(path="manifest.json"), "is a document"),
    (first_file(path="Evidence.JSON"), "is a document"),
    (first_file(bytes=-1), "-1 bytes"),
    (first_file(sha256="A" * 64), "not 64 lower-case hex"),
    (first_file(path="Model/model.tflite"), "differ in case"),
    (replace(GOOD, files=GOOD.files[::-1]), "not sorted"),
    (replace(GOOD, components=()), "no component"),
    (replace(GOOD, components=(COMPONENT, COMPONENT)), "'main' stands twice"),
    (artifact(entry="model/other"), "not among the files"),
    (artifact(batch=-1), "batch is -1"),
    (artifact(inputs=()), "not the contract's"),
    (artifact(outputs=(Binding(name="y", position=-1),)), "at position -1"),
    (contract(inputs=()), "no inputs"),
    (contract(outputs=(OUTPUT, OUTPUT)), "'y' stands twice"),
    (an_input(dtype="float23"), "did you mean 'float32'"),
    (an_input(shape=()), "no batch axis"),
    (an_input(shape=(1, 0)), "axis of size 0"),
    (an_input(shape=("", 4)), "without a name"),
    (an_input(shape=(1, 5)), "its samples have"),
    (an_input(dtype="float16"), "its samples have float32"),
    (an_input(source=Text(tokenizer="t.json", length=4)), "tokenizer 't.json'"),
    (image(mean=(0.0, 0.0)), "2 values of mean for 3 channels"),
    (image(deviation=(0.0,)), "deviation of 0"),
    (golden(samples=0), "0 samples"),
    (golden(inputs={}), "the contract has"),
    (golden(tolerance={}), "the contract has"),
    (golden(outputs={"y": "elsewhere"}), "'elsewhere' is not among"),
    (golden(tolerance={"y": -1.0}), "tolerance of 'y'"),
    (replace(GOOD, limits=()), "no limits"),
    (replace(GOOD, limits=(samples.PENDING, samples.PENDING)), "stands twice"),
    (replace(GOOD, limits=(replace(samples.PENDING, accepts=()),)), "accepts no evidence"),
    (replace(GOOD, waived=("latency_ration",)), "did you mean 'latency_ratio'"),
]


def test_a_whole_manifest_has_no_fault():
    assert manifest_fault(GOOD) == ""
    assert manifest_fault(image(mean=(0.5, 0.5, 0.5))) == ""
    assert manifest_fault(an_input(shape=("batch", 4))) == ""


@pytest.mark.parametrize(("manifest", "reason"), FAULTS, ids=[text for _, text in FAULTS])
def test_a_manifest_that_makes_no_sense_is_named(manifest, reason):
    assert reason in manifest_fault(manifest)
