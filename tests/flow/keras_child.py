"""A process with TensorFlow: makes Keras models, builds them, and says what came of it as JSON.

``python keras_child.py FOLDER``, with TensorFlow on the path. Writes into the folder what Keras
itself predicts (``predicted.npy``) and the last line of stdout.
"""

import json
import sys
from pathlib import Path

import keras
import numpy as np
from sklearn.datasets import load_digits

import edgekit
from edgekit.compile.keras import convert_keras
from edgekit.core.errors import EdgekitError
from edgekit.store import Store

SHAPE = (8, 8, 1)
TRAINED_ON = 1000
# The time of so small a network is not what this is about.
LIMITS = {"latency_ratio": 1000.0, "metric_drop": 3.0}


def network(images: np.ndarray, labels: np.ndarray) -> keras.Model:
    """Convolutions with normalization, pooling and a softmax, trained in seconds."""
    keras.utils.set_random_seed(7)
    model = keras.Sequential(
        [
            keras.Input(SHAPE, name="image"),
            keras.layers.Conv2D(16, 3, padding="same", activation="relu"),
            keras.layers.BatchNormalization(),
            keras.layers.MaxPooling2D(),
            keras.layers.Conv2D(32, 3, activation="relu"),
            keras.layers.Flatten(),
            keras.layers.Dense(10, activation="softmax"),
        ]
    )
    model.compile(keras.optimizers.Adam(0.003), "sparse_categorical_crossentropy")
    model.fit(images, labels, batch_size=50, epochs=10, verbose=0)
    return model


def save(model: keras.Model, folder: Path) -> dict[str, Path]:
    """The model in every form that edgekit takes."""
    places = {"keras": folder / "net.keras", "h5": folder / "old.h5", "saved": folder / "saved"}
    model.save(places["keras"])
    model.save(places["h5"])
    model.export(places["saved"], verbose=False)
    return places


def built(source: Path, data: Path, out: Path) -> dict[str, str]:
    """A bundle of the source for a phone, and the float artifact that it was made of."""
    result = edgekit.build(source, device="phone", data=data, out=out, limits=LIMITS)
    (key,) = [item.key for item in result.manifest.lineage.stages if item.name == "export"]
    with Store() as store:
        exported = str(store.get(key).folder / "model.tflite")
    return {"bundle": str(result.bundle), "standing": result.standing, "float": exported}


def refusal(source: Path, folder: Path) -> str:
    """The class and message of the error that a bad source ends in."""
    try:
        convert_keras(source, folder)
    except EdgekitError as error:
        return f"{type(error).__name__}: {error}"
    raise AssertionError(f"{source} was taken")


def main(folder: Path) -> None:
    """Make, predict, build, and refuse."""
    pixels, labels = load_digits(return_X_y=True)
    pixels = pixels.reshape(-1, *SHAPE).astype(np.float32) / 16
    model, images = network(pixels[:TRAINED_ON], labels[:TRAINED_ON]), pixels[TRAINED_ON:]
    predicted = model.predict(images, verbose=0)
    np.save(folder / "images.npy", images)
    np.save(folder / "predicted.npy", predicted)
    data = folder / "data.npz"
    # Keras's own answers are the truth, so that a right conversion is right every time.
    np.savez(data, x=images, y=predicted.argmax(1))
    places = save(model, folder)
    (folder / "bad.keras").write_bytes(b"not a model")
    (folder / "empty").mkdir()
    found = {name: built(places[name], data, folder / f"{name}.out") for name in ("keras", "saved")}
    old = convert_keras(places["h5"], folder)
    bad = {name: refusal(folder / name, folder) for name in ("bad.keras", "empty")}
    print(json.dumps({**found, "h5": {"float": str(old)}, "refused": bad}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
