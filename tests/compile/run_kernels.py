"""Run by tests on an emulated processor: each .onnx of a folder on its inputs.

run_kernels.py FOLDER: reads NAME.onnx and NAME.npz (inputs by name), writes NAME.npy.
"""

import sys
from pathlib import Path

import numpy as np
import onnxruntime


def main(folder: Path) -> None:
    """Write what each model gives."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    for path in sorted(folder.glob("*.onnx")):
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        with np.load(path.with_suffix(".npz")) as inputs:
            given = dict(inputs)
        np.save(path.with_suffix(".npy"), session.run(None, given)[0])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
