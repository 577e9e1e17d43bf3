"""A small valid profile, and a folder of the user's own that the catalog searches."""

from pathlib import Path

import pytest

PROFILE = """\
schema = 1
name = "NAME"
title = "A test board"
family = "phone"
default_target = "litert"
reserve_ram = "1 GB"

[hardware]
abi = "android-arm64"
architecture = { value = "aarch64", source = "manual, page 1" }
features = { value = ["neon", "dotprod"], source = "manual, page 2" }
ram = { value = "8 GB", source = "manual, page 3" }

[limits.artifact_bytes]
at_most = "10 MB"
accepts = ["host"]

[[strategy.step]]
name = "distil"
when = "training data"
reason = "smaller"

[[strategy.step]]
name = "quantize"
required = true
reason = "faster"
settings = { precision = "int8" }
"""

TARGET = """\
schema = 1
name = "NAME"
title = "A test target"
format = "tflite"
suffix = ".tflite"
compiler = "litert"
runtime = "litert"
runtime_package = "ai-edge-litert"
minimum_runtime_version = "2.3.0"

[toolchain]
requirements = ["ai-edge-litert==2.3.0"]
modules = ["ai_edge_litert"]

[[precision]]
name = "int8"
layers = ["conv", "linear"]

[[runtime_library]]
abi = "linux-x86_64"
bytes = 1000
version = "2.3.0"
sha256 = "0000000000000000000000000000000000000000000000000000000000000000"
source = "a wheel"
"""

OPERATORS = """\
schema = 1
native = ["aten.relu.default", "aten.abs.default"]
fallback = ["aten.lstm.input"]
unsupported = ["aten.svd.default"]

[notes]
"aten.lstm.input" = "becomes mm, sigmoid, tanh"
"""


class Home:
    """A working directory of a user."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def profile(self, name: str, content: str = PROFILE, *, root: str = ".") -> Path:
        folder = self.folder / root / "device_profiles"
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{name}.toml"
        path.write_text(content.replace("NAME", name), encoding="utf-8")
        return path

    def target(self, name: str, content: str = TARGET, operators: str = OPERATORS) -> Path:
        folder = self.folder / "targets" / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "target.toml").write_text(content.replace("NAME", name), encoding="utf-8")
        (folder / "operators.toml").write_text(operators, encoding="utf-8")
        return folder / "target.toml"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """An empty working directory, without EDGEKIT_PATH."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("EDGEKIT_PATH", raising=False)
    return Home(tmp_path)
