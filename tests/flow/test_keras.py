"""Keras models and SavedModels, from the file to a bundle, beside Keras's own predictions.

TensorFlow is no part of the environment: it lies in a folder of its own (``scripts/setup
--tensorflow`` makes ``.venv/tensorflow``) that only a child process sees.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter, OpResolverType

import edgekit
from edgekit.core.errors import MissingDependencyError
from edgekit.flow.model_files import workload_of_file

ROOT = Path(__file__).parents[2]

# One worker, so that the child runs once.
pytestmark = pytest.mark.xdist_group("keras")


@pytest.fixture(scope="session")
def tensorflow_folder():
    """The folder with TensorFlow, or a skip that says so (in CI a failure)."""
    folder = Path(os.environ.get("EDGEKIT_TENSORFLOW", ROOT / ".venv" / "tensorflow"))
    if not (folder / "tensorflow").is_dir():
        message = (
            f"no TensorFlow in {folder}; run scripts/setup --tensorflow, or set EDGEKIT_TENSORFLOW"
        )
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return folder


@pytest.fixture(scope="module")
def child(tensorflow_folder, tmp_path_factory):
    """What the process with TensorFlow said, and the folder that it wrote into."""
    folder = tmp_path_factory.mktemp("keras")
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(tensorflow_folder), str(ROOT)]),
        "EDGEKIT_CACHE": str(folder / "cache"),
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "TF_ENABLE_ONEDNN_OPTS": "0",
        "CUDA_VISIBLE_DEVICES": "-1",
    }
    ran = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("keras_child.py")), str(folder)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    return json.loads(ran.stdout.splitlines()[-1]), folder


def outputs_of(path, images):
    """What a float .tflite gives for each image, by LiteRT's reference kernels."""
    interpreter = Interpreter(
        model_path=str(path), experimental_op_resolver_type=OpResolverType.BUILTIN_REF
    )
    interpreter.allocate_tensors()
    (inside,), (outside,) = interpreter.get_input_details(), interpreter.get_output_details()
    found = []
    for image in images:
        interpreter.set_tensor(inside["index"], image[None])
        interpreter.invoke()
        found.append(interpreter.get_tensor(outside["index"])[0].copy())
    return np.stack(found)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["keras", "saved", "h5"])
def test_the_float_artifact_gives_what_keras_predicts(child, form):
    said, folder = child
    images, predicted = np.load(folder / "images.npy"), np.load(folder / "predicted.npy")
    # Probabilities of float32 arithmetic in another order: a few units in the last place.
    np.testing.assert_allclose(outputs_of(said[form]["float"], images), predicted, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["keras", "saved"])
def test_a_keras_model_becomes_a_proven_bundle_that_is_right_as_keras_is(child, form):
    said, folder = child
    assert said[form]["standing"] == "proven"
    images, predicted = np.load(folder / "images.npy"), np.load(folder / "predicted.npy")
    with edgekit.open(said[form]["bundle"], require="proven") as session:
        assert session.self_test().is_passed
        manifest = session.manifest
        figures = {item.name: item.value for item in session.evidence.figures}
        found = [next(iter(session.predict(image).outputs.values())) for image in images[:200]]
    # The float model is Keras's, and Keras's classes are the targets.
    assert figures["metric_float"] == 100.0
    assert manifest.metric == "top-1"
    agreement = (np.stack(found).reshape(200, 10).argmax(1) == predicted[:200].argmax(1)).mean()
    # INT8 turns a few that are close; classes by chance would agree in a tenth.
    assert agreement > 0.97


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bad.keras", "empty"])
def test_what_tensorflow_cannot_load_is_named(child, name):
    said, folder = child
    assert said["refused"][name].startswith(
        f"WorkloadError: {folder / name}: TensorFlow cannot convert it: "
    )


def test_without_tensorflow_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    monkeypatch.delitem(sys.modules, "edgekit.compile.keras", raising=False)
    with pytest.raises(MissingDependencyError, match=r"pip install 'edgekit\[tensorflow\]'"):
        workload_of_file(
            tmp_path / "net.keras", data=tmp_path / "d.npz", labels=None, work=tmp_path
        )
