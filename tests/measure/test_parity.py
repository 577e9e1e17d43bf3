import numpy as np
import pytest
import torch

from edgekit.core.errors import WorkloadError
from edgekit.data.dataset import DatasetWriter, open_dataset
from edgekit.measure.parity import parity_figures

RNG = np.random.default_rng(0)
A = RNG.normal(size=(150, 8)).astype(np.float32)
B = A + RNG.normal(0, 0.05, A.shape).astype(np.float32)


def dataset(path, **arrays):
    with DatasetWriter(path) as writer:
        for rows in zip(*arrays.values(), strict=True):
            writer.append(dict(zip(arrays, rows, strict=True)))
    return open_dataset(path)


def test_errors_and_cosines_are_those_of_numpy_and_torch(tmp_path):
    figures = parity_figures(
        dataset(tmp_path / "a", y=A), dataset(tmp_path / "b", y=B), subject="export"
    )
    found = {figure.name: figure for figure in figures}
    error = np.abs(A.astype(np.float64) - B).max()
    assert found["export_max_error"].value == pytest.approx(error)
    assert found["export_max_relative_error"].value == pytest.approx(error / np.abs(A).max())
    cosines = torch.nn.functional.cosine_similarity(
        torch.from_numpy(A).double(), torch.from_numpy(B).double()
    ).numpy()
    assert found["export_cosine"].value == pytest.approx(cosines.mean())
    assert found["export_cosine"].low < cosines.mean() < found["export_cosine"].high
    assert found["export_lowest_cosine"].value == pytest.approx(cosines.min())


def test_no_interval_of_a_cosine_passes_one(tmp_path):
    one, other = (dataset(tmp_path / name, y=A) for name in "ab")
    found = {figure.name: figure for figure in parity_figures(one, other, subject="export")}
    assert found["export_cosine"].low < found["export_cosine"].value
    assert found["export_cosine"].value == pytest.approx(1)
    assert found["export_cosine"].high == 1


def test_several_outputs_count_together_and_the_worst_shows(tmp_path):
    figures = parity_figures(
        dataset(tmp_path / "a", y=A, z=A), dataset(tmp_path / "b", y=A, z=-A), subject="s"
    )
    assert figures[0].value == pytest.approx(2 * np.abs(A).max())
    assert figures[2].value == pytest.approx(-1)


def test_equal_outputs_are_equal(tmp_path):
    figures = parity_figures(
        dataset(tmp_path / "a", y=A), dataset(tmp_path / "b", y=A), subject="s"
    )
    assert figures[0].value == figures[1].value == 0
    assert figures[2].value == pytest.approx(1)
    assert figures[2].low < figures[2].value  # 150 samples cannot exclude everything


def test_zeros_have_no_scale(tmp_path):
    zeros = dataset(tmp_path / "a", y=0 * A)
    with pytest.raises(WorkloadError, match="every reference output is 0"):
        parity_figures(zeros, dataset(tmp_path / "b", y=A), subject="s")
    assert parity_figures(zeros, zeros, subject="s")[1].value == 0


def test_outputs_of_other_shapes_or_numbers_are_refused(tmp_path):
    full = dataset(tmp_path / "a", y=A)
    for name, rows in (("b", A[:3]), ("c", A[:, :3])):
        with pytest.raises(WorkloadError, match="do not go together"):
            parity_figures(full, dataset(tmp_path / name, y=rows), subject="s")
