"""The CIFAR-10 pair's benchmark runs from end to end on few images, and its table adds up."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.strategies import cifar_cells
from benchmarks.strategies.cifar_cells import all_cells, same_cost_epochs
from benchmarks.strategies.cifar_record import Record, add_record, read_records, this_place
from benchmarks.strategies.cifar_table import markdown

SCRIPT = Path(cifar_cells.__file__).with_name("cifar_pair.py")


def record(label: str, seed: int, jpeg: float) -> Record:
    return Record(
        label=label,
        seed=seed,
        epochs=1,
        selection_percent=90.0,
        jpeg_percent=jpeg,
        lossless_percent=50.0,
        parameters=10,
        macs=20,
        cost_macs=30,
        cpu_seconds=1.0,
        sha256="",
        place=this_place("torch"),
    )


@pytest.mark.slow
def test_every_arm_runs_on_few_images_and_a_second_run_only_shows(tmp_path, data_dir):
    results = tmp_path / "results.json"
    command = [sys.executable, str(SCRIPT), "--tiny", "--results", str(results)]
    command += ["--work", str(tmp_path / "work")]
    first = subprocess.run(command, capture_output=True, text=True, check=False)
    assert first.returncode == 0, first.stderr
    records = read_records(results)
    assert records.keys() == {cell.name for cell in all_cells(is_tiny=True)}
    dense, pruned = records["teacher"], records["prune-half-channels-1"]
    # Half of the channels on both sides of a convolution leave a quarter of its products.
    assert pruned.macs == pytest.approx(dense.macs / 4, rel=0.05)
    # 60 images of a set: a share of right ones is a whole number of them.
    assert records["distil-1"].jpeg_percent * 0.6 == pytest.approx(
        round(records["distil-1"].jpeg_percent * 0.6)
    )
    before = results.read_bytes()
    second = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (second.returncode, second.stderr, second.stdout) == (0, "", first.stdout)
    assert results.read_bytes() == before


def test_the_plain_arm_gets_the_epochs_that_the_teacher_costs():
    # Counted by hand: ResNet-20 40.55 and ResNet-56 125.49 million products a picture; training
    # is three passes, so 4 epochs with a teacher are 4 * (3 * 40.55 + 125.49) / (3 * 40.55) = 8.13.
    assert same_cost_epochs(4) == 9


def test_the_difference_is_taken_seed_by_seed_and_told_by_its_spread():
    records = {}
    for seed, ours, theirs in ((1, 85.0, 84.0), (2, 87.0, 85.0), (3, 86.0, 83.0)):
        records[f"distil-{seed}"] = record("distil", seed, ours)
        records[f"plain-{seed}"] = record("plain", seed, theirs)
    cells = [replace(cell, images=0) for cell in all_cells() if cell.name in records]
    found = markdown(cells, records)
    gains = np.array([1.0, 2.0, 3.0])
    said = f"{gains.mean():+.2f} ± {gains.std(ddof=1):.2f} points over 3 seeds: wins"
    assert f"distil against plain, JPEG: {said}" in found
    assert "distil against plain, lossless: +0.00 ± 0.00 points over 3 seeds: cannot be" in found


def test_records_survive_the_file(tmp_path):
    path, made = tmp_path / "results.json", record("plain", 2, 85.0)
    add_record(path, "plain-2", made)
    add_record(path, "plain-3", record("plain", 3, 86.0))
    assert read_records(path)["plain-2"] == made
    assert list(read_records(path)) == ["plain-2", "plain-3"]
