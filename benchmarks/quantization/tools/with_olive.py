"""Olive's own recipes: ``python with_olive.py RECIPE FLOAT.onnx CALIBRATION.npz OUT.onnx``.

Runs in an environment of its own; nothing of edgekit is there.
"""

import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from olive import run
from olive.data.registry import Registry

PASSES = {
    "static": {
        "type": "OnnxStaticQuantization",
        "data_config": "calibration",
        "per_channel": True,
        "precision": "int8",
        "activation_type": "uint8",
    },
    "dynamic": {"type": "OnnxDynamicQuantization", "per_channel": True, "precision": "int8"},
    "int4-rtn": {"type": "OnnxBlockWiseRtnQuantization", "bits": 4, "block_size": 32},
    "int4-hqq": {"type": "OnnxHqqQuantization", "block_size": 32},
}


class Samples(torch.utils.data.Dataset):
    """Inputs by name, and no label."""

    def __init__(self, path: str) -> None:
        with np.load(path) as archive:
            self._arrays = {name: archive[name] for name in archive.files}

    def __len__(self) -> int:
        """How many samples."""
        return len(next(iter(self._arrays.values())))

    def __getitem__(self, at: int) -> tuple[dict, int]:
        """One sample."""
        return {name: torch.from_numpy(rows[at]) for name, rows in self._arrays.items()}, 0


@Registry.register_dataset("calibration_samples")
def calibration_samples(path: str, **_: object) -> Samples:
    """What Olive asks for by this name."""
    return Samples(path)


def main(recipe: str, source: str, calibration: str, out: str) -> None:
    """Write the quantized model."""
    with tempfile.TemporaryDirectory() as folder:
        found = run(
            {
                "input_model": {"type": "OnnxModel", "model_path": source},
                "data_configs": [
                    {
                        "name": "calibration",
                        "type": "DummyDataContainer",
                        "load_dataset_config": {
                            "type": "calibration_samples",
                            "params": {"path": calibration},
                        },
                        "pre_process_data_config": {"type": "skip_pre_process"},
                        "post_process_data_config": {"type": "skip_post_process"},
                        "dataloader_config": {
                            "type": "default_dataloader",
                            "params": {"batch_size": 1},
                        },
                    }
                ],
                "passes": {"quantize": PASSES[recipe]},
                "output_dir": str(Path(folder) / "out"),
                "cache_dir": str(Path(folder) / "cache"),
                "log_severity_level": 3,
            }
        )
        made = Path(found.get_best_candidate().model_path)
        shutil.copy(made, out)


if __name__ == "__main__":
    main(*sys.argv[1:])
