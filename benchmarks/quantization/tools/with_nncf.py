"""NNCF's own recipes: ``python with_nncf.py RECIPE FLOAT.onnx CALIBRATION.npz OUT.onnx``.

Runs in an environment of its own; nothing of edgekit is there.
"""

import sys

import nncf
import numpy as np
import onnx

BLOCK = 32


def samples(calibration: str) -> nncf.Dataset:
    """One sample a run."""
    with np.load(calibration) as archive:
        arrays = {name: archive[name] for name in archive.files}
    count = len(next(iter(arrays.values())))
    rows = [{name: item[at : at + 1] for name, item in arrays.items()} for at in range(count)]
    return nncf.Dataset(rows)


def main(recipe: str, source: str, calibration: str, out: str) -> None:
    """Write the quantized model."""
    model, data = onnx.load(source), samples(calibration)
    if recipe.startswith("int4"):
        done = nncf.compress_weights(
            model,
            mode=nncf.CompressWeightsMode.INT4_SYM,
            group_size=BLOCK,
            all_layers=True,
            dataset=data,
            awq="awq" in recipe,
            scale_estimation="scale" in recipe,
            # It takes tables of embeddings for matrices, which no runtime loads (3.4.0).
            ignored_scope=nncf.IgnoredScope(types=["Gather"], validate=False),
        )
    else:
        done = nncf.quantize(
            model,
            data,
            preset=nncf.QuantizationPreset.MIXED,
            subset_size=len(list(data.get_data())),
            fast_bias_correction="accurate" not in recipe,
            model_type=nncf.ModelType.TRANSFORMER if "transformer" in recipe else None,
        )
    onnx.save(done, out)


if __name__ == "__main__":
    main(*sys.argv[1:])
