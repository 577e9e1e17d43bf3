"""A bundle's folder and its zip lie side by side: whether they are the same bundle.

They are put in place by two renames, one after the other. A kill between the two, or a build
without ``--zip`` over an older one with it, leaves a folder beside another bundle's zip.
"""

from pathlib import Path

from edgekit.bundle.verify import verify_bundle
from edgekit.core.errors import BundleError

SUFFIX = ".zip"


def zip_path(folder: Path) -> Path:
    """Where the zip of a bundle's folder goes."""
    return folder.with_name(folder.name + SUFFIX)


def fault_beside(bundle: Path, bundle_id: str) -> str:
    """What is wrong with the zip beside a folder, or the folder beside a zip; "" for nothing."""
    is_folder = bundle.is_dir()
    folder = bundle if is_folder else bundle.with_name(bundle.name.removesuffix(SUFFIX))
    other = zip_path(folder) if is_folder else folder
    if other == bundle or not other.exists():
        return ""
    try:
        found = verify_bundle(other).bundle_id
    except BundleError as fault:
        return f"beside it lies what is no whole bundle ({fault})"
    if found == bundle_id:
        return ""
    return (
        f"beside it lies another bundle: {other} is {found[:12]}, this one is {bundle_id[:12]}; "
        f"`edgekit pack {folder} --force` makes the zip that of the folder"
    )
