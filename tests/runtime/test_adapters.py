"""Adapters chosen at run time, on an ONNX model whose result is known: y = x + adapter."""

import threading
from dataclasses import replace

import numpy as np
import pytest
from onnx import TensorProto, helper

import edgekit
from edgekit.bundle.manifest import Component, Golden
from edgekit.bundle.seal import seal_bundle
from edgekit.bundle.verify import verify_bundle
from edgekit.core.artifact import Artifact, Binding
from edgekit.core.contract import Adapter, Contract, InputContract, Output, OutputContract, Tensor
from edgekit.core.errors import BundleError, SessionError
from edgekit.runtime.adapters import AdapterPort
from edgekit.runtime.engine import EngineTensor
from edgekit.runtime.ports import InputPort
from tests.bundle import samples
from tests.runtime.conftest import npy

VECTORS = {
    "polite": np.array([1, 2, 3, 4], np.float32),
    "brief": np.array([-1, 0, 0, 8], np.float32),
}
FILES = {name: f"adapters/{name}.npy" for name in VECTORS}
X = np.arange(8, dtype=np.float32).reshape(2, 4)
NAMES = ("polite", "none", "brief")


def model(batch):
    """The adapter comes first in the artifact, and last in the contract."""
    axis = "batch" if batch == 0 else batch
    tensors = {
        name: helper.make_tensor_value_info(name, TensorProto.FLOAT, [axis, 4])
        for name in ("adapter", "x", "y")
    }
    node = helper.make_node("Add", ["x", "adapter"], ["y"])
    graph = helper.make_graph([node], "sum", [tensors["adapter"], tensors["x"]], [tensors["y"]])
    opset = [helper.make_opsetid("", 17)]
    return helper.make_model(graph, opset_imports=opset, ir_version=9).SerializeToString()


def contract(batch):
    axis = "batch" if batch == 0 else batch
    return Contract(
        inputs=(
            InputContract(name="x", dtype="float32", shape=(axis, 4), source=Tensor(shape=(4,))),
            InputContract(
                name="adapter",
                dtype="float32",
                shape=(axis, 4),
                source=Adapter(length=4, adapters=FILES),
            ),
        ),
        outputs=(OutputContract(name="y", dtype="float32", shape=(axis, 4), meaning=Output()),),
    )


def make(folder, batch=0, **vectors):
    artifact = Artifact(
        format="onnx",
        runtime="onnx",
        entry="model/model.onnx",
        precision="float32",
        inputs=(Binding(name="adapter", position=0), Binding(name="x", position=1)),
        outputs=(Binding(name="y", position=0),),
        batch=batch,
    )
    rows = np.stack([VECTORS.get(name, np.zeros(4, np.float32)) for name in NAMES])
    given = np.ones((3, 4), np.float32)
    files = {
        artifact.entry: model(batch),
        "golden/inputs/x.npy": npy(given),
        "golden/outputs/y.npy": npy(given + rows),
        **{path: npy({**VECTORS, **vectors}[name]) for name, path in FILES.items()},
    }
    made = samples.manifest(
        components=(Component(name="main", artifact=artifact, contract=contract(batch)),),
        golden=Golden(
            samples=3,
            inputs={"x": "golden/inputs/x.npy"},
            outputs={"y": "golden/outputs/y.npy"},
            tolerance={"y": 1e-6},
            adapters=NAMES,
        ),
        minimum_runtime={},
    )
    seal_bundle(folder, made, files, lambda bundle_id: samples.evidence(made, bundle_id))
    return folder


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return make(tmp_path_factory.mktemp("adapters") / "sum.edgekit")


@pytest.mark.parametrize("batch", [0, 1])
def test_each_call_runs_with_the_adapter_that_it_names(tmp_path, batch):
    with edgekit.open(make(tmp_path / "sum.edgekit", batch), adapter="polite") as session:
        assert session.adapters == ("brief", "polite")
        np.testing.assert_array_equal(session.run({"x": X})["y"], X + VECTORS["polite"])
        np.testing.assert_array_equal(session.run(X, adapter="brief")["y"], X + VECTORS["brief"])
        for none in ("none", ""):
            np.testing.assert_array_equal(session.run(X, adapter=none)["y"], X)
        mixed = session.run(X, adapter=["brief", "none"])["y"]
        np.testing.assert_array_equal(mixed, X + np.stack([VECTORS["brief"], np.zeros(4)]))
        found = session.predict(X[0], adapter="brief").outputs["y"]
        np.testing.assert_array_equal(found, X[0] + VECTORS["brief"])
        assert session.self_test().is_passed


def test_without_a_choice_the_model_runs_alone(bundle):
    with edgekit.open(bundle) as session:
        np.testing.assert_array_equal(session.run(X)["y"], X)


def test_a_name_that_is_not_there_is_refused_with_the_nearest(bundle):
    with pytest.raises(SessionError, match=r"no adapter 'polit'; did you mean 'polite'\?"):
        edgekit.open(bundle, adapter="polit")
    with edgekit.open(bundle) as session:
        for choice in ("breif", ["none", "breif"]):
            with pytest.raises(SessionError, match=r"no adapter 'breif'; did you mean 'brief'\?"):
                session.run(X, adapter=choice)
        with pytest.raises(SessionError, match="1 adapters are named for a batch of 2"):
            session.run(X, adapter=["brief"])
        with pytest.raises(SessionError, match="no input 'adapter'"):
            session.run({"x": X, "adapter": X})


def test_a_bundle_without_adapters_takes_none(bundles):
    with edgekit.open(bundles["dynamic_onnx"]) as session:
        assert session.adapters == ()
    with pytest.raises(SessionError, match="this bundle has no adapters"):
        edgekit.open(bundles["dynamic_onnx"], adapter="polite")


def test_threads_with_different_adapters_do_not_disturb_each_other(bundle):
    wrong = []

    def work(session, name):
        found = (session.run(X, adapter=name)["y"] for _ in range(200))
        wrong.extend(name for item in found if not np.array_equal(item, X + VECTORS[name]))

    with edgekit.open(bundle) as session:
        threads = [threading.Thread(target=work, args=(session, name)) for name in VECTORS]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []


@pytest.mark.parametrize(
    ("vector", "reason"),
    [
        (np.zeros(5, np.float32), r"shape \(5,\); an adapter of this model is float32"),
        (np.zeros(4, np.float64), "float64 of shape"),
        (np.array([0, np.nan, 0, 0], np.float32), "NaN or infinite"),
    ],
)
def test_a_file_that_is_no_adapter_of_this_model_is_refused(tmp_path, vector, reason):
    path = make(tmp_path / "sum.edgekit", polite=vector)
    with pytest.raises(BundleError, match=f"adapters/polite.npy: .*{reason}"):
        edgekit.open(path)


def test_a_changed_adapter_is_found(bundle, tmp_path):
    path = make(tmp_path / "sum.edgekit")
    file = path / FILES["polite"]
    file.write_bytes(file.read_bytes()[:-1] + b"\x00")
    with pytest.raises(BundleError, match=r"'adapters/polite\.npy' was changed"):
        verify_bundle(path)


def test_an_artifact_of_integers_gets_its_adapter_scaled():
    tensor = EngineTensor(name="a", dtype=np.dtype("int8"), shape=(-1, 4), scale=0.5, zero_point=3)
    port = InputPort(contract(0).inputs[1], tensor, 0)
    ready = AdapterPort(port, FILES, lambda path: npy(VECTORS[path[9:-4]]))
    # value / 0.5 + 3, by hand.
    np.testing.assert_array_equal(ready.stored("brief", 2), np.int8([[1, 3, 3, 19]] * 2))
    np.testing.assert_array_equal(ready.stored("none", 1), np.int8([[3, 3, 3, 3]]))


def test_what_a_manifest_says_of_adapters_must_hold(bundle):
    from edgekit.bundle.rules import manifest_fault

    made = verify_bundle(bundle).manifest
    assert manifest_fault(made) == ""

    def with_adapters(names):
        (component,) = made.components
        x, adapter = component.contract.inputs
        source = replace(adapter.source, adapters=names)
        changed = replace(component.contract, inputs=(x, replace(adapter, source=source)))
        return replace(made, components=(replace(component, contract=changed),))

    def with_golden(names):
        return replace(made, golden=replace(made.golden, adapters=names))

    assert "no adapter to choose" in manifest_fault(with_adapters({}))
    assert "is not among the files" in manifest_fault(with_adapters({"a": "adapters/a.npy"}))
    assert "which stands for none" in manifest_fault(with_adapters({"none": FILES["brief"]}))
    assert "names 0 adapters for 3 samples" in manifest_fault(with_golden(None))
    assert "'rude' is no adapter" in manifest_fault(with_golden(("rude", "none", "none")))
