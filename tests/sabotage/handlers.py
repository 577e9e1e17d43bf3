"""Stage handlers that do their work and then something else than they were asked."""

import os
import shutil
from dataclasses import replace

from edgekit.compile import litert, onnx
from tests.sabotage import edits


def _asked_otherwise(request, **settings):
    """The request as if the strategy had asked for something else."""
    quantize = {**request.settings["quantize"], **settings}
    return replace(request, settings={**request.settings, "quantize": quantize})


def _edited_tflite(request, out, reporter, change):
    values = litert.quantize(request, out, reporter)
    edits.edit_tflite(out / "model.tflite", change)
    return values


def _edited_onnx(request, out, reporter, change):
    values = onnx.quantize(request, out, reporter)
    edits.edit_onnx(out / "model.onnx", change)
    return values


def do_nothing(request, out, reporter):
    shutil.copytree(request.folder("float"), out, dirs_exist_ok=True)
    return {"artifact": {**request.settings["artifact"], "precision": "int8"}, "changed": True}


def keep_float(request, out, reporter):
    values = do_nothing(request, out, reporter)
    edits.edit_onnx(out / "model.onnx", edits.say_something)
    return values


def skip_a_layer(request, out, reporter):
    overrides = [{"pattern": "second", "precision": "float"}]
    return litert.quantize(_asked_otherwise(request, overrides=overrides), out, reporter)


def weights_only(request, out, reporter):
    return litert.quantize(_asked_otherwise(request, activations="none"), out, reporter)


def dynamic(request, out, reporter):
    return litert.quantize(_asked_otherwise(request, activations="dynamic"), out, reporter)


def int8(request, out, reporter):
    return litert.quantize(_asked_otherwise(request, precision="int8"), out, reporter)


def double_scale(request, out, reporter):
    return _edited_tflite(request, out, reporter, edits.set_scale(2.0))


def one_channel_scale(request, out, reporter):
    return _edited_tflite(request, out, reporter, edits.set_scale(1.5, channel=5))


def zero_scale(request, out, reporter):
    return _edited_tflite(request, out, reporter, edits.set_scale(0.0))


def nan_scale(request, out, reporter):
    return _edited_tflite(request, out, reporter, edits.set_scale(float("nan"), channel=3))


def zero_weights(request, out, reporter):
    return _edited_tflite(request, out, reporter, edits.zero_weights)


def swap_weights(request, out, reporter):
    return _edited_tflite(request, out, reporter, edits.swap_weights)


def nan_weights(request, out, reporter):
    return _edited_onnx(request, out, reporter, edits.put_nan_into_weights)


def drop_layer(request, out, reporter):
    return _edited_onnx(request, out, reporter, edits.drop_layer)


def slow(request, out, reporter):
    change = edits.work_for_nothing([1, 16, 4, 4], sines=4)
    return _edited_onnx(request, out, reporter, change)


def hungry(request, out, reporter):
    change = edits.work_for_nothing([1, 128, 21, 21], sines=0)
    return _edited_onnx(request, out, reporter, change)


def favour_one_class(request, out, reporter):
    return _edited_onnx(request, out, reporter, edits.favour_one_class)


def give_nan(request, out, reporter):
    return _edited_onnx(request, out, reporter, edits.give_nan)


def normalise_again(request, out, reporter):
    return _edited_onnx(request, out, reporter, edits.normalise_again)


def swap_outputs(request, out, reporter):
    """The artifact is right; the table that says which output is which is not."""
    values = onnx.quantize(request, out, reporter)
    artifact = values["artifact"]
    first, second = artifact["outputs"]
    swapped = [
        {**first, "position": second["position"]},
        {**second, "position": first["position"]},
    ]
    return {**values, "artifact": {**artifact, "outputs": swapped}}


def draw(request, out, reporter):
    (out / "drawn.bin").write_bytes(os.urandom(8))
    return {}
