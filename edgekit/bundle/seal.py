"""Writes bundles: seals a folder, packs it into a zip, unpacks it again; each whole or not at all.

A bundle is verified as a reader would before it is put in place, so nothing is sealed that does
not open.
"""

import errno
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

from edgekit.bundle.beside import zip_path
from edgekit.bundle.documents import MAXIMUM_DOCUMENT_BYTES, encode_evidence, normalised
from edgekit.bundle.manifest import Evidence, Manifest
from edgekit.bundle.paths import DOCUMENTS, EVIDENCE_NAME, MANIFEST_NAME, collision, path_fault
from edgekit.bundle.place import (
    nearest_folder,
    output_faults,
    place,
    place_all,
    remove_leftovers,
    restore,
    sync_folder,
    sync_path,
    work_folder,
)
from edgekit.bundle.source import FolderSource
from edgekit.bundle.verify import VerifiedBundle, verify_bundle, verify_source
from edgekit.bundle.zipped import encode_zip
from edgekit.core.artifact import FileEntry
from edgekit.core.codec import from_plain
from edgekit.core.errors import BundleError, InputError, OutputError

_CHUNK_BYTES = 1 << 20


def seal_bundle(
    out: Path,
    manifest: Manifest,
    files: Mapping[str, Path | bytes],
    evidence_for: Callable[[str], Evidence],
    *,
    force: bool = False,
    zip_out: Path | None = None,
) -> VerifiedBundle:
    """Write a bundle at ``out`` and return it as a reader sees it.

    manifest.files is filled in from ``files``, which maps paths in the bundle to content.
    evidence_for is called once, with the bundle_id, when all files are written. zip_out: where it
    is also written as one zip; both are whole before either is put in place, the folder first.
    Raises: OutputError for the place, BundleError for a bundle that would not open.
    """
    check_output(out, force=force)
    if zip_out is not None:
        check_zip_output(zip_out, force=force)
    _check_paths(files)
    with work_folder(out) as work:
        with output_faults(out):
            entries = tuple(_write(work, path, files[path]) for path in sorted(files))
        sealed = normalised(Manifest, replace(manifest, files=entries), where=MANIFEST_NAME)
        evidence = normalised(Evidence, evidence_for(sealed.bundle_id), where=EVIDENCE_NAME)
        with output_faults(out):
            _write(work, MANIFEST_NAME, sealed.encode())
            _write(work, EVIDENCE_NAME, encode_evidence(evidence))
            sync_folder(work)
        bundle = verify_source(FolderSource(work, name=str(out)))
        if zip_out is None:
            place(work, out, force=force)
        else:
            with _zip_work(bundle, zip_out) as made:
                place_all(((work, out), (made, zip_out)), force=force)
    return bundle


def check_output(out: Path, *, force: bool) -> None:
    """Whether a bundle may be written at ``out``; ask before long work.

    Leftovers of killed runs beside it are cleared away. Only a bundle or an empty folder is ever
    replaced.
    Raises: OutputError with what is in the way.
    """
    if out.name in ("", ".."):
        raise OutputError(f"{out}: has no name of its own; name the bundle's folder")
    with output_faults(out):
        folder = nearest_folder(out)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, f"'{folder}' cannot be written")
    restore(out)
    for made in (out, zip_path(out)):
        remove_leftovers(made)
    if not os.path.lexists(out):
        return
    if not force:
        raise OutputError(f"{out}: exists; --force replaces it if it is a bundle")
    reason = _why_not_replaceable(out)
    if reason:
        raise OutputError(f"{out}: {reason}, so --force does not replace it; choose another place")


def _why_not_replaceable(out: Path) -> str:
    if out.is_symlink():
        return "is a symbolic link"
    if not out.is_dir():
        return "is a file"
    with output_faults(out):
        if not any(out.iterdir()):
            return ""
    try:
        found = FolderSource(out).paths()
        listed = _listed_paths(out)
    except BundleError as fault:
        return f"is not an edgekit bundle ({fault})"
    foreign = sorted(set(found) - listed)
    return f"holds {foreign[0]!r}, which is no part of a bundle" if foreign else ""


def _listed_paths(out: Path) -> set[str]:
    # Damaged files do not matter here, strange ones do: what is not listed is not edgekit's.
    data = FolderSource(out).read(MANIFEST_NAME, maximum_bytes=MAXIMUM_DOCUMENT_BYTES)
    try:
        entries = json.loads(data)["files"]
        listed = [from_plain(FileEntry, entry, where=MANIFEST_NAME) for entry in entries]
    except (ValueError, KeyError, TypeError, RecursionError, InputError) as fault:
        raise BundleError(f"its {MANIFEST_NAME} lists no files") from fault
    return {entry.path for entry in listed} | set(DOCUMENTS)


def _check_paths(files: Mapping[str, Path | bytes]) -> None:
    for path in files:
        fault = path_fault(path)
        if fault:
            raise BundleError(f"the path {path!r} {fault}")
        if path.lower().split("/")[0] in DOCUMENTS:
            raise BundleError(f"'{path}' is written by sealing; it cannot be handed in")
    clash = collision(files)
    if clash:
        raise BundleError(clash)


def _write(folder: Path, path: str, content: Path | bytes) -> FileEntry:
    target = folder / path
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("xb") as file:
        if isinstance(content, bytes):
            file.write(content)
            digest, size = hashlib.sha256(content).hexdigest(), len(content)
        else:
            digest, size = _copy(content, file)
    return FileEntry(path=path, bytes=size, sha256=digest)


def _copy(source: Path, file: BinaryIO) -> tuple[str, int]:
    digest, size = hashlib.sha256(), 0
    try:
        content = source.open("rb")
    except OSError as fault:
        raise BundleError(f"{source}: cannot be read to be sealed: {fault.strerror}") from fault
    with content:
        while chunk := content.read(_CHUNK_BYTES):
            file.write(chunk)
            digest.update(chunk)
            size += len(chunk)
    return digest.hexdigest(), size


def pack(bundle: Path, out: Path, *, force: bool = False) -> None:
    """Verify a bundle and write it as one zip; the same bundle gives the same bytes.

    Raises: BundleError, OutputError.
    """
    verified = verify_bundle(bundle)
    check_zip_output(out, force=force)
    with _zip_work(verified, out) as made:
        place(made, out, force=force)


@contextmanager
def _zip_work(bundle: VerifiedBundle, out: Path) -> Iterator[Path]:
    """A bundle's zip, whole, in a work folder beside ``out``; gone afterwards unless placed."""
    with work_folder(out) as work:
        made = work / "bundle.zip"
        with output_faults(out):
            with made.open("xb") as file:
                for piece in encode_zip({**bundle.contents, **_documents(bundle)}):
                    file.write(piece)
            sync_path(made)
        yield made


def unpack(bundle: Path, out: Path, *, force: bool = False) -> VerifiedBundle:
    """Verify a zip and write its files as a folder, whole or not at all.

    Raises: BundleError, OutputError.
    """
    verified = verify_bundle(bundle)
    check_output(out, force=force)
    with work_folder(out) as work:
        with output_faults(out):
            for path, content in {**verified.contents, **_documents(verified)}.items():
                _write(work, path, content)
            sync_folder(work)
        place(work, out, force=force)
    return replace(verified, name=str(out))


def check_zip_output(out: Path, *, force: bool) -> None:
    """Whether a zip may be written at ``out``.

    Raises: OutputError when something is there, other than a bundle's zip under ``force``.
    """
    restore(out)
    if not os.path.lexists(out):
        return
    if out.is_symlink() or not out.is_file():
        raise OutputError(f"{out}: is not a plain file; choose another place")
    if not force:
        raise OutputError(f"{out}: exists; --force replaces it if it is a bundle")
    with output_faults(out), out.open("rb") as file:
        is_zip = file.read(4) == b"PK\x03\x04"
    if not is_zip:
        raise OutputError(f"{out}: is no zip, so --force does not replace it")


def _documents(bundle: VerifiedBundle) -> dict[str, bytes]:
    return {
        MANIFEST_NAME: bundle.manifest.encode(),
        EVIDENCE_NAME: encode_evidence(bundle.evidence),
    }
