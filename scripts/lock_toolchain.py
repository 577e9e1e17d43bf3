#!/usr/bin/env python
"""Resolve a target's pins to a file of exact versions with hashes, as pip would install them now.

    scripts/lock_toolchain.py targets/NAME/target.toml     writes the file that toolchain.lock names
    scripts/lock_toolchain.py --requirement 'onnx==1.23.2' prints one

A lock is for the Python and the machine that it was made on; its first line says which. pip asks
the index that it is configured for; the lock names no index, so it serves with any that has the
same files.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

from edgekit.flow.pins import LOCK_HEADER, lock_platform


def resolve(requirements: list[str]) -> list[dict[str, Any]]:
    """What pip would install for requirements into an empty environment."""
    # An environment of its own, so that nothing installed here counts as there already.
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        report = Path(folder) / "report.json"
        command = [f"{folder}/bin/python", "-m", "pip", "install", "--dry-run", "--quiet"]
        options = ["--disable-pip-version-check", "--report", str(report)]
        subprocess.run([*command, *options, *requirements], check=True)
        items: list[dict[str, Any]] = json.loads(report.read_text())["install"]
    return items


def lock_text(requirements: list[str], items: list[dict[str, Any]]) -> str:
    """The lock file: a line and a hash for each package, by name."""
    lines = [
        f"{LOCK_HEADER}{lock_platform()}",
        f"# from {', '.join(sorted(requirements))}, by scripts/lock_toolchain.py",
    ]
    for item in sorted(items, key=lambda item: item["metadata"]["name"].lower()):
        name, version = item["metadata"]["name"], item["metadata"]["version"]
        sha256 = item["download_info"]["archive_info"]["hashes"]["sha256"]
        lines.append(f"{name}=={version} --hash=sha256:{sha256}")
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> int:
    """Lock what the command line asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("target", nargs="?", type=Path, help="a target.toml")
    parser.add_argument("--requirement", action="append", default=[], help="as pip writes it")
    chosen = parser.parse_args(arguments)
    if chosen.target is None:
        if not chosen.requirement:
            parser.error("give a target.toml or --requirement")
        sys.stdout.write(lock_text(chosen.requirement, resolve(chosen.requirement)))
        return 0
    toolchain = tomllib.loads(chosen.target.read_text())["toolchain"]
    if not toolchain.get("lock"):
        parser.error(f"{chosen.target}: [toolchain] has no 'lock'; write lock = \"lock.txt\"")
    requirements = [*toolchain["requirements"], *chosen.requirement]
    path = chosen.target.parent / toolchain["lock"]
    path.write_text(lock_text(requirements, resolve(requirements)))
    print(f"{path}: written", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
