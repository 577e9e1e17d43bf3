"""Keras models and SavedModels to a float .tflite, by TensorFlow's own converter."""

from pathlib import Path

from edgekit.core.errors import MissingDependencyError, WorkloadError

try:
    import tensorflow as tf
except ModuleNotFoundError as missing:
    raise MissingDependencyError(
        "a Keras or SavedModel needs TensorFlow: pip install 'edgekit[tensorflow]'"
    ) from missing


def convert_keras(path: Path, work: Path) -> Path:
    """The float .tflite of a ``.keras`` or ``.h5`` file or a SavedModel folder, below ``work``.

    Raises: WorkloadError when TensorFlow cannot load or convert it.
    """
    try:
        if path.is_dir():
            converter = tf.lite.TFLiteConverter.from_saved_model(str(path))
        else:
            model = tf.keras.models.load_model(path, compile=False, safe_mode=True)
            converter = tf.lite.TFLiteConverter.from_keras_model(model)
        content = converter.convert()
    except (ValueError, TypeError, OSError, RuntimeError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise WorkloadError(f"{path}: TensorFlow cannot convert it: {first}") from error
    out = work / f"{path.stem}.tflite"
    out.write_bytes(content)
    return out
