from dataclasses import replace

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter

from edgekit.core.artifact import Binding
from edgekit.core.errors import SessionError
from edgekit.measure.runner import Runner, open_runner

from . import artifacts

X = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)


def test_a_float_artifact_gives_what_numpy_gives(tmp_path):
    item = artifacts.write_onnx(tmp_path)
    with Runner(tmp_path, item, artifacts.contract()) as runner:
        assert runner.batch == 1
        np.testing.assert_allclose(runner.run({"x": X})["y"], artifacts.expected(X), atol=1e-6)


def test_a_short_batch_is_filled_up_and_the_rest_dropped(tmp_path):
    item = artifacts.write_onnx(tmp_path, batch=4)
    with Runner(tmp_path, item, artifacts.contract(batch=4)) as runner:
        assert runner.batch == 4
        found = runner.run({"x": X[:3]})["y"]
        np.testing.assert_allclose(found, artifacts.expected(X[:3]), atol=1e-6)


def test_an_integer_artifact_is_scaled_as_the_interpreter_is_by_hand(tmp_path):
    item = artifacts.write_int8_tflite(tmp_path)
    interpreter = Interpreter(model_content=(tmp_path / "model.tflite").read_bytes())
    interpreter.allocate_tensors()
    by_hand = []
    for row in X:
        stored = np.rint(row / np.float32(artifacts.INPUT_SCALE)) + artifacts.INPUT_ZERO
        interpreter.set_tensor(0, stored.clip(-128, 127).astype(np.int8)[None])
        interpreter.invoke()
        levels = interpreter.get_tensor(3)[0].astype(np.float32)
        by_hand.append((levels - artifacts.OUTPUT_ZERO) * np.float32(artifacts.OUTPUT_SCALE))
    with Runner(tmp_path, item, artifacts.contract()) as runner:
        found = [runner.run({"x": row[None]})["y"][0] for row in X]
    np.testing.assert_allclose(found, by_hand, rtol=1e-6)
    # One step of the output's scale, and half a step of input and weights through 3 products.
    np.testing.assert_allclose(found, artifacts.expected(X), atol=0.25)


def test_bindings_that_do_not_fit_are_refused(tmp_path):
    item = artifacts.write_onnx(tmp_path)
    two = replace(item, inputs=(*item.inputs, Binding(name="z", position=1)))
    with pytest.raises(SessionError, match="inputs x, z are bound, the contract has x"):
        Runner(tmp_path, two, artifacts.contract())
    moved = replace(item, outputs=(Binding(name="y", position=1),))
    with pytest.raises(SessionError, match=r"bound to tensors \[1\] and the artifact has 1"):
        Runner(tmp_path, moved, artifacts.contract())


def test_settings_open_a_runner(tmp_path):
    item = artifacts.write_onnx(tmp_path)
    plain = artifacts.plain(item), artifacts.plain(artifacts.contract())
    with open_runner(tmp_path, *plain, threads=1) as runner:
        assert runner.artifact == item
