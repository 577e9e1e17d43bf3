"""The first workload of a user."""

import importlib.util
import sys

import numpy as np
import pytest

from edgekit.core.errors import OutputError
from edgekit.flow.init import TEMPLATES, template_text, write_workload


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the template was written; the model is trained there once."""
    folder = tmp_path_factory.mktemp("app")
    write_workload(folder)
    return folder


@pytest.fixture
def digits(folder, monkeypatch):
    """The template as a module."""
    spec = importlib.util.spec_from_file_location("digits_template", folder / "workload.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "digits_template", module)
    spec.loader.exec_module(module)
    return module


def test_both_files_are_written_and_named(tmp_path):
    written = write_workload(tmp_path / "new" / "app")
    assert [path.name for path in written] == list(TEMPLATES)
    assert all(path.is_file() for path in written)


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_file_that_is_there_is_not_overwritten_and_nothing_else_is_written(name, tmp_path):
    (tmp_path / name).write_text("mine")
    with pytest.raises(OutputError, match="overwrites nothing"):
        write_workload(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "mine"


def test_a_dangling_link_counts_as_there(tmp_path):
    (tmp_path / "workload.py").symlink_to(tmp_path / "nowhere")
    with pytest.raises(OutputError):
        write_workload(tmp_path)


def test_a_folder_that_cannot_be_made_is_an_output_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="name another folder"):
        write_workload(tmp_path / "file" / "app")


def test_the_readme_names_commands_that_exist():
    from edgekit.cli.main import COMMANDS

    lines = [line.split() for line in template_text("README.md.txt").splitlines()]
    typed = [words[1] for words in lines if words[:1] == ["edgekit"]]
    assert len(typed) == 3
    assert set(typed) <= COMMANDS.keys()


def test_the_workload_itself_is_about_fifteen_lines():
    body = template_text("workload.py.txt").split("def workload()")[1].split("\nclass ")[0]
    code = [line for line in body.splitlines()[2:] if line.strip() and "#" not in line]
    assert len(code) <= 16


def test_the_three_sets_share_no_image(digits):
    pixels, _ = digits.digits()
    rows = {row.tobytes() for row in pixels}
    assert len(rows) == len(pixels) == 1797
    workload = digits.workload()
    evaluation = [pixel.tobytes() for pixel, _ in workload.evaluation]
    calibration = [pixel.tobytes() for pixel in workload.calibration]
    trained = {row.tobytes() for row in pixels[:700]}
    assert len(evaluation) == 947
    assert len(calibration) == 150
    assert not trained & {*evaluation, *calibration}
    assert not set(evaluation) & set(calibration)


def test_the_model_is_trained_once_well_and_kept(digits, folder):
    import torch

    model = digits.workload().model
    saved = (folder / "digits.pt").read_bytes()
    pixels, labels = digits.digits()
    images = torch.from_numpy(pixels[850:]).float().div(255).unsqueeze(1)
    with torch.no_grad():
        scores = model(images)
        again = digits.workload().model(images)
    assert np.mean(scores.argmax(1).numpy() == labels[850:]) > 0.97
    assert torch.equal(scores, again)
    assert (folder / "digits.pt").read_bytes() == saved
    assert not (folder / "digits.partial").exists()


def test_the_declared_preparation_is_what_the_model_was_trained_on(digits):
    from edgekit.data.preprocess import prepare

    pixels, _ = digits.digits()
    source = digits.workload().inputs["image"]
    prepared = prepare(pixels[0], source, where="test")
    assert prepared.shape == (1, 8, 8)
    # One rounding more or less: 1/255 is multiplied in, not divided by.
    np.testing.assert_allclose(prepared[0], pixels[0].astype(np.float32) / 255, rtol=1e-6)
