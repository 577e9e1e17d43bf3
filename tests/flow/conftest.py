"""The plug-in of the test target, importable as an installed one would be."""

from pathlib import Path

import pytest

import edgekit
from tests.flow import tiny

TARGET_FOLDER = Path(__file__).parent / "toolchain_target"


@pytest.fixture
def plugin(monkeypatch: pytest.MonkeyPatch) -> str:
    """The module of the plug-in's stages."""
    monkeypatch.syspath_prepend(str(TARGET_FOLDER))
    return "edgekit_clash.stages"


class Builds:
    """Builds of the tiny network, each made once a session; all share one cache."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._count = 0
        self._made: dict[str, object] = {}

    def new(self, name: str = "item") -> Path:
        """A path that does not exist yet."""
        self._count += 1
        return self.folder / f"{name}-{self._count}"

    def build(self, device: str, workload=None, **options):
        """A build of its own. A tiny network's latency is not what these tests are about."""
        given = {"limits": {} if device == "embedded" else {"latency_ratio": 1000.0}, **options}
        given.setdefault("out", self.new(device))
        return edgekit.build(workload or tiny.workload_of_two(), device=device, **given)

    def honest(self, device: str):
        """The result of a plain build for a device."""
        if device not in self._made:
            self._made[device] = self.build(device)
        return self._made[device]


@pytest.fixture(scope="session")
def builds(tmp_path_factory: pytest.TempPathFactory):
    """Builds of the tiny network."""
    with pytest.MonkeyPatch.context() as patch:
        # What tests/sabotage has built is found again here.
        patch.setenv("EDGEKIT_CACHE", str(tmp_path_factory.getbasetemp() / "edgekit-cache"))
        yield Builds(tmp_path_factory.mktemp("builds"))
