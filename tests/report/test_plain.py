"""Any result as JSON."""

import json
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import ClassVar

import pytest

from edgekit.core.contract import Tensor
from edgekit.report.plain import plain_json


class Colour(StrEnum):
    """A choice."""

    RED = "red"


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaf:
    """One of a union."""

    kind: ClassVar[str] = "leaf"
    size: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Tree:
    """Everything that results hold."""

    path: Path = Path("a/b")
    colour: Colour = Colour.RED
    leaves: tuple[Leaf, ...] = (Leaf(), Leaf(size=2))
    nothing: str | None = None
    table: MappingProxyType = field(default_factory=lambda: MappingProxyType({"x": Leaf()}))


def test_everything_that_results_hold_becomes_json():
    assert json.loads(plain_json(Tree())) == {
        "path": "a/b",
        "colour": "red",
        "leaves": [{"kind": "leaf", "size": 1}, {"kind": "leaf", "size": 2}],
        "table": {"x": {"kind": "leaf", "size": 1}},
    }


def test_it_agrees_with_the_codec_of_bundles():
    from edgekit.core.codec import to_plain
    from tests.bundle import samples

    manifest = samples.manifest()
    assert json.loads(plain_json(manifest)) == to_plain(manifest)
    assert json.loads(plain_json(Tensor(shape=(1,)))) == to_plain(Tensor(shape=(1,)))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_json_cannot_hold_is_an_error(value):
    with pytest.raises(ValueError, match="JSON compliant"):
        plain_json({"x": value})


def test_a_class_of_unknown_form_is_an_error():
    with pytest.raises(TypeError, match="object has no plain form"):
        plain_json(object())


def test_text_stays_readable():
    assert "nämlich" in plain_json({"x": "nämlich"})
