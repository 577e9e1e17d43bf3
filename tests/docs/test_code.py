"""Python in the documents compiles, and what a reader is asked to type does what is said."""

import os
import re
import subprocess
import sys
import types

import numpy as np
import pytest

import edgekit
from tests.docs.pages import PAGES, ROOT, blocks_of, name_of, text_of

PYTHON = [block for page in PAGES for block in blocks_of(page) if block.language == "python"]
TABLE_RULE = "─"


@pytest.mark.parametrize("block", PYTHON, ids=lambda block: f"{name_of(block.page)}:{block.start}")
def test_every_python_block_compiles(block):
    compile(block.text, name_of(block.page), "exec")


@pytest.mark.parametrize("name", ["README.md", "docs/quickstart.md"])
def test_every_name_of_edgekit_in_python_blocks_is_public(name):
    for block in (block for block in PYTHON if block.page == ROOT / name):
        for used in re.findall(r"\bedgekit\.([A-Za-z]\w*)", block.text):
            assert used in edgekit.__all__


@pytest.fixture
def my_project(monkeypatch):
    """The module that the README's workload imports its model and data from."""
    torch = pytest.importorskip("torch")
    module = types.ModuleType("my_project")

    class TrainedNet(torch.nn.Sequential):
        def __init__(self):
            conv = torch.nn.Conv2d(3, 4, 3, stride=4)
            super().__init__(conv, torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(256, 3))

    pictures = np.random.default_rng(0).integers(0, 256, (12, 32, 32, 3), dtype=np.uint8)
    module.CLASSES = ("daisy", "rose", "tulip")
    module.TrainedNet = TrainedNet
    module.training_pictures = pictures[:6]
    module.test_pictures = [(picture, index % 3) for index, picture in enumerate(pictures[6:])]
    monkeypatch.setitem(sys.modules, "my_project", module)
    return module


def test_the_workload_of_the_readme_is_one_that_can_be_planned(my_project):
    from edgekit.data.samples import iterate_samples

    block = next(block for block in PYTHON if "def workload" in block.text)
    names = {}
    exec(compile(block.text, "README.md", "exec"), names)
    workload = names["workload"]()
    planned = edgekit.plan(workload, device="raspberry-pi-5")
    assert [step.name for step in planned.strategy.steps if step.is_run] == ["quantize"]
    samples = list(
        iterate_samples(
            workload.evaluation, workload.inputs, set_name="evaluation", needs_target=True
        )
    )
    assert samples[0]["picture"].shape == (3, 32, 32)


def test_the_workload_of_the_readme_is_about_fifteen_lines():
    block = next(block for block in PYTHON if "def workload" in block.text)
    assert len([line for line in block.text.splitlines() if line.strip()]) <= 15


def test_the_first_screen_shows_what_the_quickstart_shows():
    shown = next(block.text for block in blocks_of(ROOT / "README.md") if "$ edgekit" in block.text)
    quickstart = text_of("docs/quickstart.md").splitlines()
    for line in filter(None, shown.splitlines()):
        assert line in quickstart


class Reader:
    """Someone who types what a page says, in a folder of their own."""

    def __init__(self, folder, cache):
        self.folder = folder
        self.environment = {**os.environ, "EDGEKIT_CACHE": str(cache), "COLUMNS": "100"}
        self.last_code = 0

    def python(self, text):
        """Run one block."""
        self._run([sys.executable, "-c", text], text)
        assert self.last_code == 0

    def session(self, text):
        """Type the commands of one block; what the page shows of the output must come out."""
        for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
            command, _, shown = part.partition("\n")
            if command == "echo $?":
                assert self.last_code == int(shown)
                self.last_code = 0
                continue
            assert self.last_code == 0, f"before {command}"
            module = f"'{sys.executable}' -m edgekit"
            output = self._run(re.sub(r"^edgekit\b", module, command), command)
            missing = constant_lines(shown) - constant_lines(output)
            assert not missing, f"{command} does not print {missing}"

    def _run(self, command, name):
        done = subprocess.run(
            command,
            shell=isinstance(command, str),
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        self.last_code = done.returncode
        assert done.returncode in (0, 3), f"{name}\n{done.stdout}\n{done.stderr}"
        return done.stdout


def constant_lines(text):
    """Lines without digits (those differ from host to host), with single spaces."""
    lines = (" ".join(line.split()) for line in text.splitlines())
    return {
        line
        for line in lines
        if line and line != "..." and not re.search(r"\d", line) and TABLE_RULE not in line
    }


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_quickstart_does_what_it_says_from_start_to_end(tmp_path):
    pytest.importorskip("sklearn")
    reader = Reader(tmp_path, tmp_path / "cache")
    for block in blocks_of(ROOT / "docs" / "quickstart.md"):
        if block.language == "python":
            reader.python(block.text)
        elif block.text.startswith("$ edgekit"):
            reader.session(block.text)
    assert reader.last_code == 0
    # The bundle is there now: the README's ten lines open one that they build themselves.
    reader.python(next(block.text for block in PYTHON if "edgekit.build(" in block.text))
