"""The README's tree and the architecture's rooms are those of the code."""

import fnmatch
import re
import tomllib

from tests.docs.pages import ROOT, text_of

TREE = re.compile(r"## Where things are\n```\n(.*?)```", re.DOTALL)
ROOMS = re.compile(r"## Rooms\n```\n(.*?)```", re.DOTALL)
ENTRY = re.compile(r"^( *)(\S+)\s{2,}\S")


def paths_of(block):
    """Paths of an indented tree, from the root; every line names one and says what it is."""
    parents, found = [], []
    for line in block.splitlines():
        entry = ENTRY.match(line)
        assert entry, f"not a path with its meaning: {line!r}"
        depth = len(entry[1]) // 2
        parents[depth:] = [entry[2]]
        found.append("".join(parents))
    return found


def is_ignored(name):
    """Whether .gitignore, or git itself, leaves a folder of the root out."""
    patterns = [line.strip().strip("/") for line in text_of(".gitignore").splitlines()]
    return name == ".git" or any(fnmatch.fnmatch(name, pattern) for pattern in patterns if pattern)


def rooms():
    """The rooms of the package."""
    return {path.parent.name for path in (ROOT / "edgekit").glob("*/__init__.py")}


def test_every_path_of_the_tree_exists():
    for path in paths_of(TREE.search(text_of("README.md"))[1]):
        assert (ROOT / path).is_dir() == path.endswith("/"), f"{path} is not what the README says"
        assert (ROOT / path).exists(), f"the README names {path}"


def test_the_tree_names_every_folder_of_the_root_and_every_room():
    named = set(paths_of(TREE.search(text_of("README.md"))[1]))
    folders = {path.name for path in ROOT.iterdir() if path.is_dir() and not is_ignored(path.name)}
    assert {f"{name}/" for name in folders} <= named
    assert {f"edgekit/{name}/" for name in rooms()} <= named


def test_the_architecture_names_exactly_the_rooms_that_there_are():
    _, *lines = ROOMS.search(text_of("docs/architecture.md"))[1].splitlines()
    assert {line.split()[0].rstrip("/") for line in lines} == rooms()


def test_the_architecture_states_the_layers_that_are_checked():
    project = tomllib.loads(text_of("pyproject.toml"))
    layers = project["tool"]["importlinter"]["contracts"][0]["layers"]
    written = " -> ".join(f"({layer})" if "|" in layer else layer for layer in layers)
    assert f"`{written}`" in text_of("docs/architecture.md")


def test_the_architecture_names_every_handler_of_the_built_in_compilers():
    from edgekit.compile import LITERT, ONNX

    text = text_of("docs/architecture.md")
    for spec in (LITERT, ONNX):
        for handler in (spec.export, spec.strip, spec.mobile, *spec.steps.values()):
            assert f"`{handler.removeprefix('edgekit.')}`" in text or not handler
