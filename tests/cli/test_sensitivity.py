"""The command sensitivity: a table, JSON, a picture, and what stands in the way of one."""

import json
import sys

import pytest

from edgekit.core.sensitivity import LayerSensitivity, PrecisionCost, Sensitivity
from edgekit.flow import sensing
from edgekit.flow.results import SensitivityResult


def cost(size, error, drop=None):
    return PrecisionCost(bytes=size, error=error, cosine_loss=error / 2, metric_drop=drop)


FOUND = Sensitivity(
    layers=(
        LayerSensitivity(
            path="stem",
            kind="conv",
            parameters=144,
            costs={"fp16": cost(288, 1e-9), "int8": cost(144, 2e-6)},
            why_not={"int4": "LiteRT makes it depthwise"},
        ),
        LayerSensitivity(
            path="head",
            kind="linear",
            parameters=640,
            costs={
                "int4": cost(320, 3.2e-3, 0.25),
                "int4/32": cost(400, 1.6e-3, 0.125),
                "int8": cost(640, 1e-5, 0.0),
            },
        ),
    ),
    samples=64,
    metric="top-1",
    unit="points",
    left={"odd": "its weight is computed at each call"},
)


@pytest.fixture
def asked(monkeypatch):
    """Flow's verb, answering with a result made by hand and keeping what it was asked."""
    kept = {}

    def answer(source, options, **given):
        kept.update(source=source, options=options, **given)
        return SensitivityResult(
            name="net",
            device="phone",
            target="litert",
            sensitivity=FOUND,
            has_selection=True,
            is_reused=False,
        )

    monkeypatch.setattr(sensing, "sensitivity", answer)
    return kept


def test_the_table_has_those_first_that_cost_most(asked, command):
    found = command(
        "sensitivity", "w.py", "-d", "phone", "--samples", "64", "--set", "quantize.block_size=32"
    )
    assert found.code == 0
    assert found.out.index("head") < found.out.index("stem")
    text = " ".join(found.out.split())
    assert "3.2e-03" in text
    assert "largest" in text
    assert "int4: stem (LiteRT makes it depthwise)" in text
    assert "odd: its weight is computed at each call" in text
    assert asked["samples"] == 64
    assert asked["options"].settings == {"quantize": {"block_size": 32}}


def test_json_mirrors_the_measurement(asked, command):
    found = json.loads(command("sensitivity", "w.py", "-d", "phone", "--json").out)
    head = found["sensitivity"]["layers"][1]
    assert head["costs"]["int4/32"] == {
        "bytes": 400,
        "error": 1.6e-3,
        "cosine_loss": 0.8e-3,
        "metric_drop": 0.125,
    }


@pytest.mark.parametrize("suffix", ["svg", "png"])
def test_the_picture_is_drawn_and_is_the_same_each_time(asked, command, tmp_path, suffix):
    pytest.importorskip("matplotlib")
    files = [tmp_path / f"{name}.{suffix}" for name in ("one", "two")]
    for file in files:
        assert command("sensitivity", "w.py", "-d", "phone", "--plot", file).code == 0
    contents = [file.read_bytes() for file in files]
    assert contents[0] == contents[1]
    start = b"<?xml" if suffix == "svg" else b"\x89PNG"
    assert contents[0].startswith(start)
    if suffix == "svg":
        # Texts are drawn as shapes, and matplotlib keeps each as a comment.
        assert all(
            f"<!-- {name} -->".encode() in contents[0] for name in ("stem", "head", "int4/32")
        )


def test_without_matplotlib_the_extra_is_named_before_any_work(asked, command, monkeypatch):
    for name in [item for item in sys.modules if item.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    found = command("sensitivity", "w.py", "-d", "phone", "--plot", "layers.svg")
    assert found.code == 5
    assert "pip install 'edgekit[plot]'" in found.err
    assert not asked


@pytest.mark.parametrize(
    ("file", "said"), [("layers.gif", "ends in none of"), ("no/layers.svg", "is not there")]
)
def test_a_picture_that_cannot_be_is_refused_before_any_work(asked, command, file, said):
    pytest.importorskip("matplotlib")
    found = command("sensitivity", "w.py", "-d", "phone", "--plot", file)
    assert found.code == 2
    assert said in " ".join(found.err.split())
    assert not asked
