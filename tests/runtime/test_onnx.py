"""The ONNX Runtime engine against the raw session."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from edgekit.core.errors import SessionError
from edgekit.runtime.onnx import OnnxEngine


def model(kind=TensorProto.FLOAT, *, weights=None) -> bytes:
    nodes = [helper.make_node("Add", ["x", "w"] if weights is not None else ["x", "x"], ["y"])]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", kind, ["batch", 3])],
        [helper.make_tensor_value_info("y", kind, ["batch", 3])],
        [] if weights is None else [weights],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return made.SerializeToString()


def test_it_runs_what_the_raw_session_runs(models):
    engine = OnnxEngine(models.dynamic_onnx.content, threads=2)
    raw = onnxruntime.InferenceSession(models.dynamic_onnx.content)
    (inner,) = engine.inputs
    assert inner.dtype == np.float32
    assert inner.shape == (-1, 3, 8, 8)
    for rows in (1, 5):
        (found,) = engine.run([models.inputs[:rows]])
        (wanted,) = raw.run(None, {inner.name: models.inputs[:rows]})
        np.testing.assert_allclose(found, wanted, atol=1e-6)
    engine.close()
    with pytest.raises(SessionError, match="closed"):
        engine.run([models.inputs[:1]])


def test_an_ort_file_runs_from_its_bytes(models, tmp_path):
    (tmp_path / "m.onnx").write_bytes(models.dynamic_onnx.content)
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "m.ort")
    options.add_session_config_entry("session.save_model_format", "ORT")
    onnxruntime.InferenceSession(str(tmp_path / "m.onnx"), options)
    content = (tmp_path / "m.ort").read_bytes()
    assert content[4:8] == b"ORTM"
    (found,) = OnnxEngine(content).run([models.inputs])
    np.testing.assert_allclose(found, models.torch_outputs(models.inputs), atol=1e-5)


@pytest.mark.parametrize(
    "content", [b"", b"x", b"ORTM" * 10, b"\x00\x00\x00\x00ORTM" + b"\xff" * 50]
)
def test_bytes_that_are_no_model_are_a_session_error(content):
    with pytest.raises(SessionError, match="ONNX Runtime cannot load the model"):
        OnnxEngine(content)


def test_a_graph_that_makes_no_sense_is_a_session_error():
    with pytest.raises(SessionError, match="cannot load"):
        OnnxEngine(model().replace(b"Add", b"Adz"))


@pytest.mark.parametrize("location", ["w.bin", "sub/../w.bin", "../w.bin"])
def test_weights_in_other_files_are_not_read(tmp_path, monkeypatch, location):
    values = np.arange(3, dtype=np.float32)
    weights = onnx.TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[3], data_location=1)
    for key, value in (("location", location), ("length", "12")):
        entry = weights.external_data.add()
        entry.key, entry.value = key, value
    (tmp_path / "sub").mkdir()
    for folder in (tmp_path, tmp_path / "sub"):
        (folder / "w.bin").write_bytes(values.tobytes())
    monkeypatch.chdir(tmp_path / "sub")
    with pytest.raises(SessionError, match="cannot load"):
        OnnxEngine(model(weights=weights))


def test_wrong_arrays_are_a_session_error_and_the_engine_stays_usable():
    engine = OnnxEngine(model())
    good = np.ones((2, 3), np.float32)
    for bad in ([np.ones((2, 4), np.float32)], [np.ones((2, 3))], [], [good, good], ["x"]):
        with pytest.raises(SessionError, match="cannot run"):
            engine.run(bad)
    np.testing.assert_array_equal(engine.run([good])[0], good * 2)


def test_a_tensor_of_texts_is_refused():
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.STRING, [1])],
        [helper.make_tensor_value_info("y", TensorProto.STRING, [1])],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    with pytest.raises(SessionError, match=r"tensor\(string\)"):
        OnnxEngine(made.SerializeToString())


def test_loading_a_bad_model_says_nothing_on_stderr(capfd):
    with pytest.raises(SessionError):
        OnnxEngine(model().replace(b"Add", b"Adz"))
    assert capfd.readouterr().err == ""
