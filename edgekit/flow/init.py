"""A first workload for a user: a file that builds as it stands, and how to go on from it."""

from importlib.resources import files
from pathlib import Path

from edgekit.core.errors import OutputError
from edgekit.store.files import atomic_write

TEMPLATES = {"workload.py": "workload.py.txt", "README.md": "README.md.txt"}


def write_workload(folder: Path) -> tuple[Path, ...]:
    """Write the template into ``folder``, which may exist; gives the files written.

    Raises: OutputError when one of the files is there already, or the folder cannot be written.
    """
    targets = {folder / name: template for name, template in TEMPLATES.items()}
    for path in targets:
        if path.exists() or path.is_symlink():
            raise OutputError(
                f"{path}: already there, and init overwrites nothing; name another folder"
            )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"{folder}: cannot be made ({error.strerror or error}); name another folder"
        ) from error
    for path, template in targets.items():
        atomic_write(path, template_text(template).encode())
    return tuple(targets)


def template_text(name: str) -> str:
    """One of the package's template files."""
    return (files("edgekit.flow") / "templates" / name).read_text(encoding="utf-8")
