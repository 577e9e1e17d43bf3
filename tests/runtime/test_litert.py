"""The LiteRT engine against the raw interpreter."""

import contextlib
import os
import subprocess
import sys

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from edgekit.core.errors import SessionError
from edgekit.runtime.litert import LiteRtEngine, _describe, _quiet_stderr


def raw(content, value, resolver=OpResolverType.AUTO):
    made = Interpreter(model_content=content, experimental_op_resolver_type=resolver)
    index = made.get_input_details()[0]["index"]
    if list(made.get_input_details()[0]["shape"]) != list(value.shape):
        made.resize_tensor_input(index, value.shape)
    made.allocate_tensors()
    made.set_tensor(index, value)
    made.invoke()
    return made.get_tensor(made.get_output_details()[0]["index"])


def test_tensors_are_described_as_the_file_says(models):
    (inner,) = LiteRtEngine(models.int8_litert.content).inputs
    details = Interpreter(model_content=models.int8_litert.content).get_input_details()[0]
    assert (inner.scale, inner.zero_point) == details["quantization"]
    assert inner.dtype == np.int8
    assert inner.shape == (1, 3, 8, 8)
    (inner,) = LiteRtEngine(models.dynamic_litert.content).inputs
    assert inner.shape == (-1, 3, 8, 8)
    assert inner.scale == 0.0


def test_it_runs_what_the_raw_interpreter_runs(models):
    engine = LiteRtEngine(models.dynamic_litert.content, threads=2)
    for rows in (1, 5, 5, 2):
        batch = models.inputs[:rows]
        (found,) = engine.run([batch])
        np.testing.assert_array_equal(found, raw(models.dynamic_litert.content, batch))
    engine.close()
    with pytest.raises(SessionError, match="closed"):
        engine.run([models.inputs[:1]])


def test_the_reference_kernels_can_be_asked_for(models):
    content = models.int8_litert.content
    stored = np.random.default_rng(1).integers(-128, 128, (1, 3, 8, 8)).astype(np.int8)
    (found,) = LiteRtEngine(content, reference=True).run([stored])
    np.testing.assert_array_equal(found, raw(content, stored, OpResolverType.BUILTIN_REF))


def test_a_fixed_shape_is_not_resized_and_the_engine_stays_usable(models):
    engine = LiteRtEngine(models.float_litert.content)
    (wanted,) = engine.run([models.inputs[:1]])
    for bad in ([models.inputs[:2]], [], [models.inputs[:1].astype(np.int8)]):
        with pytest.raises(SessionError):
            engine.run(bad)
    (found,) = engine.run([models.inputs[:1]])
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("content", [b"", b"x", b"TFL3" * 100])
def test_bytes_that_are_no_model_are_a_session_error(content):
    with pytest.raises(SessionError, match="LiteRT cannot load the model"):
        LiteRtEngine(content)


def test_mutated_models_never_crash_the_loader(models):
    draw = np.random.default_rng(0)
    content = models.float_litert.content
    for _ in range(100):
        changed = bytearray(content)
        # Headers and offsets lie in the first and last parts; weights would only change numbers.
        changed[int(draw.integers(0, 200))] ^= 1 << int(draw.integers(0, 8))
        with contextlib.suppress(SessionError):
            LiteRtEngine(bytes(changed)).close()


def test_a_tensor_with_a_scale_a_channel_is_refused(models):
    details = Interpreter(model_content=models.int8_litert.content).get_input_details()[0]
    details["quantization_parameters"]["scales"] = np.float32([1, 2])
    with pytest.raises(SessionError, match="has 2 scales"):
        _describe(details)


def test_loading_says_nothing_on_stderr(models, tmp_path):
    (tmp_path / "m.tflite").write_bytes(models.float_litert.content)
    code = (
        "import sys; from edgekit.runtime.litert import LiteRtEngine\n"
        "LiteRtEngine(open(sys.argv[1], 'rb').read()); print('done')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "m.tflite")], capture_output=True, check=True
    )
    assert (done.stdout, done.stderr) == (b"done\n", b"")


def test_other_lines_on_stderr_are_passed_on(capfd):
    with _quiet_stderr():
        os.write(2, b"INFO: chatter\nERROR: trouble\n")
    assert capfd.readouterr().err == "ERROR: trouble\n"


def test_a_process_without_stderr_loads_all_the_same(models, tmp_path):
    (tmp_path / "m.tflite").write_bytes(models.float_litert.content)
    code = (
        "import os, sys; os.close(2)\n"
        "from edgekit.runtime.litert import LiteRtEngine\n"
        "LiteRtEngine(open(sys.argv[1], 'rb').read()); print('done')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "m.tflite")], capture_output=True, check=False
    )
    assert done.stdout == b"done\n"
