"""ONNX Runtime's own recipes: ``python with_ort.py RECIPE FLOAT.onnx CALIBRATION.npz OUT.onnx``.

Runs in an environment of its own; nothing of edgekit is there. The recipes are those of ONNX
Runtime's quantization guide: pre-processing, then QDQ with unsigned activations and signed weights,
a scale for each channel.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)
from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer
from onnxruntime.quantization.shape_inference import quant_pre_process

METHODS = {
    "static": CalibrationMethod.MinMax,
    "static-entropy": CalibrationMethod.Entropy,
    "static-percentile": CalibrationMethod.Percentile,
}
BLOCK = 32


class Samples(CalibrationDataReader):
    """One sample a run."""

    def __init__(self, path: str) -> None:
        with np.load(path) as archive:
            self._arrays = {name: archive[name] for name in archive.files}
        self._at = 0

    def get_next(self) -> dict | None:
        """The next sample, None at the end."""
        self._at += 1
        count = len(next(iter(self._arrays.values())))
        if self._at > count:
            return None
        return {name: rows[self._at - 1 : self._at] for name, rows in self._arrays.items()}


def main(recipe: str, source: str, calibration: str, out: str) -> None:
    """Write the quantized model."""
    if recipe == "int4-blocks":
        quantizer = MatMulNBitsQuantizer(
            onnx.load(source),
            bits=4,
            block_size=BLOCK,
            is_symmetric=True,
            accuracy_level=4,
            op_types_to_quantize=("MatMul", "Gather"),
            quant_axes=(("MatMul", 0), ("Gather", 1)),
        )
        quantizer.process()
        onnx.save(quantizer.model.model, out)
        return
    with tempfile.TemporaryDirectory() as folder:
        ready = str(Path(folder) / "ready.onnx")
        # Its symbolic shape inference fails on transformers that torch exports (1.31.1).
        quant_pre_process(source, ready, skip_symbolic_shape="transformer" in recipe)
        bits, _, kind = recipe.removesuffix("-transformer").partition(":")
        if bits == "dynamic":
            quantize_dynamic(ready, out, per_channel=True, weight_type=QuantType.QInt8)
            return
        quantize_static(
            ready,
            out,
            Samples(calibration),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt4 if kind == "int4" else QuantType.QInt8,
            calibrate_method=METHODS[bits],
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
