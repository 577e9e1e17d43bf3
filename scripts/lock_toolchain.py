#!/usr/bin/env python
"""Resolve a target's pins to a file of exact versions with hashes, as pip would install them now.

    scripts/lock_toolchain.py targets/NAME/target.toml     writes the file that toolchain.lock names
    scripts/lock_toolchain.py --requirement 'onnx==1.23.2' prints one

A lock is for the Python and the machine that it was made on; its first line says which. pip asks
the index that it is configured for; the lock names no index, so it serves with any that has the
same files. With --also-plain-index pip is asked once more without its configuration files,
find-links and extra indexes, at the same versions: where that gives another build of a package,
such as torch with its accelerator libraries, the lock holds both, and what either needs. Where an
index gives no metadata apart from the files, pip downloads those to read it: gigabytes of them.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from packaging.utils import canonicalize_name
from packaging.version import Version

from edgekit.flow.lock_file import ChosenFile
from edgekit.flow.pins import LOCK_HEADER, lock_platform

PLAIN = "--also-plain-index"
CONFIGURED = ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL", "PIP_NO_INDEX")


def resolve(
    requirements: list[str], versions: str = "", *, is_plain: bool = False
) -> tuple[ChosenFile, ...]:
    """What pip would install for requirements into an empty environment; wheels only.

    versions: a constraints file's text. is_plain: without the configuration of this machine's pip.
    """
    environment = dict(os.environ)
    if is_plain:
        environment = {key: value for key, value in environment.items() if key not in CONFIGURED}
        environment["PIP_CONFIG_FILE"] = os.devnull
    # An environment of its own, so that nothing installed here counts as there already.
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        report, constraints = Path(folder) / "report.json", Path(folder) / "constraints.txt"
        constraints.write_text(versions)
        command = [f"{folder}/bin/python", "-m", "pip", "install", "--dry-run", "--quiet"]
        options = ["--disable-pip-version-check", "--ignore-installed", "--only-binary=:all:"]
        files = ["--report", str(report), "--constraint", str(constraints)]
        subprocess.run([*command, *options, *files, *requirements], check=True, env=environment)
        return read_report(report)


def read_report(path: Path) -> tuple[ChosenFile, ...]:
    """What ``pip install --dry-run --report`` would install."""
    return tuple(
        ChosenFile(
            name=canonicalize_name(item["metadata"]["name"]),
            version=item["metadata"]["version"],
            file=Path(unquote(urlsplit(item["download_info"]["url"]).path)).name,
            sha256=item["download_info"]["archive_info"]["hashes"]["sha256"],
        )
        for item in json.loads(path.read_bytes())["install"]
    )


def public(version: str) -> str:
    """A version without what sets a build apart: ``2.13.0+cpu`` is ``2.13.0``."""
    return Version(version).public


def merged(*resolutions: tuple[ChosenFile, ...]) -> dict[str, list[ChosenFile]]:
    """The files of all resolutions by package, those of the first one first."""
    found: dict[str, list[ChosenFile]] = {}
    for item in (item for resolution in resolutions for item in resolution):
        files = found.setdefault(item.name, [])
        if item.sha256 not in [other.sha256 for other in files]:
            files.append(item)
    for name, files in found.items():
        # Bundles and caches tell builds apart by their version.
        if len({item.version for item in files}) < len(files):
            raise SystemExit(f"{name}: two files of one version: {[item.file for item in files]}")
    return found


def lock_text(requirements: list[str], found: dict[str, list[ChosenFile]], options: str) -> str:
    """The lock file: a line for each package, by name, with the hash of each build of it."""
    lines = [
        f"{LOCK_HEADER}{lock_platform()}",
        f"# from {', '.join(sorted(requirements))}, by scripts/lock_toolchain.py{options}",
    ]
    for name, files in sorted(found.items()):
        if len(files) > 1:
            lines.append(f"# {name}, as pip finds it: {' or '.join(item.file for item in files)}")
        version = files[0].version if len(files) == 1 else public(files[0].version)
        hashes = " ".join(f"--hash=sha256:{item.sha256}" for item in files)
        lines.append(f"{name}=={version} {hashes}")
    return "\n".join(lines) + "\n"


def locked(requirements: list[str], *, also_plain_index: bool) -> str:
    """The lock of requirements."""
    first = resolve(requirements)
    if not also_plain_index:
        return lock_text(requirements, merged(first), "")
    versions = "".join(f"{item.name}=={public(item.version)}\n" for item in first)
    second = resolve(requirements, versions, is_plain=True)
    return lock_text(requirements, merged(first, second), f" {PLAIN}")


def main(arguments: list[str] | None = None) -> int:
    """Lock what the command line asks for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("target", nargs="?", type=Path, help="a target.toml")
    parser.add_argument("--requirement", action="append", default=[], help="as pip writes it")
    parser.add_argument(PLAIN, action="store_true", help="lock what a plain pip finds as well")
    chosen = parser.parse_args(arguments)
    if chosen.target is None:
        if not chosen.requirement:
            parser.error("give a target.toml or --requirement")
        sys.stdout.write(locked(chosen.requirement, also_plain_index=chosen.also_plain_index))
        return 0
    toolchain: dict[str, Any] = tomllib.loads(chosen.target.read_text())["toolchain"]
    if not toolchain.get("lock"):
        parser.error(f"{chosen.target}: [toolchain] has no 'lock'; write lock = \"lock.txt\"")
    requirements = [*toolchain["requirements"], *chosen.requirement]
    path = chosen.target.parent / toolchain["lock"]
    path.write_text(locked(requirements, also_plain_index=chosen.also_plain_index))
    print(f"{path}: written", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
