"""The plug-in of the test target, importable as an installed one would be."""

from pathlib import Path

import pytest

TARGET_FOLDER = Path(__file__).parent / "toolchain_target"


@pytest.fixture
def plugin(monkeypatch: pytest.MonkeyPatch) -> str:
    """The module of the plug-in's stages."""
    monkeypatch.syspath_prepend(str(TARGET_FOLDER))
    return "edgekit_clash.stages"
