"""What ships is light, and needs no network."""

import subprocess
import sys

import pytest

from edgekit import runtime

HEAVY = ("torch", "PIL", "rich", "click", "onnxruntime", "ai_edge_litert", "importlib.metadata",
         "tokenizers", "soundfile", "soxr", "tensorflow", "onnx", "scipy")  # fmt: skip


def python(code, *arguments):
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=True,
    ).stdout


@pytest.mark.parametrize("module", ["edgekit.runtime", "edgekit.runtime.session"])
def test_importing_the_runtime_imports_numpy_at_most_and_nothing_heavy(module):
    code = f"import sys, {module}; print([m for m in {HEAVY!r} if m in sys.modules])"
    assert python(code) == "[]\n"


SLOW = ("importlib.metadata", "email", "urllib", "pathlib", "zipfile", "difflib", "tempfile",
        "edgekit.core.strategy", "edgekit.evaluate", "edgekit.runtime.golden",
        "edgekit.graph.model", "edgekit.runtime.litert_widen")  # fmt: skip


@pytest.mark.parametrize(
    ("name", "engine"),
    [("float_litert", "ai_edge_litert.interpreter"), ("dynamic_onnx", "onnxruntime")],
)
def test_opening_a_bundle_imports_nothing_slow_besides_its_engine(bundles, name, engine):
    told = f"print([m for m in {SLOW!r} if m in sys.modules])"
    alone = python(f"import sys, numpy, {engine}; {told}")
    assert python(f"import sys, edgekit; edgekit.open(sys.argv[1]); {told}", bundles[name]) == alone


def test_the_public_names_are_there_and_no_others():
    for name in runtime.__all__:
        assert getattr(runtime, name)
    with pytest.raises(AttributeError, match="no attribute 'Sesion'"):
        _ = runtime.Sesion


def test_verifying_loads_no_model(bundles):
    assert runtime.verify(bundles["float_litert"]).manifest.name == "sample"


def test_a_bundle_opens_and_runs_with_no_network_and_no_torch(bundles, models, tmp_path):
    import numpy as np

    np.save(tmp_path / "x.npy", models.inputs[0])
    code = """
import socket, sys
def refuse(*arguments, **options):
    raise AssertionError("a socket was opened")
socket.socket = socket.create_connection = socket.getaddrinfo = refuse
sys.modules["torch"] = None
from edgekit import runtime
for path in sys.argv[2:]:
    with runtime.open(path) as session:
        assert session.self_test().is_passed
        print(session.predict(sys.argv[1]).labels["scores"][0][0])
"""
    found = python(code, tmp_path / "x.npy", *bundles.values()).split()
    best = int(models.torch_outputs(models.inputs[:1])[0].argmax())
    assert found == [("ant", "bee", "cat", "dog", "elk")[best]] * len(bundles)
