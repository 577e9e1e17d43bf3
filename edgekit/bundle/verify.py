"""Checks all of a bundle and hands on exactly the bytes that were checked.

Every file is read once into memory, hashed, and kept: what is loaded later is what was verified,
whatever happens to the file in between. The stored verdict is not believed but judged again.
"""

import hashlib
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

from edgekit.bundle.documents import MAXIMUM_DOCUMENT_BYTES, decode_evidence, decode_manifest
from edgekit.bundle.manifest import Evidence, Manifest
from edgekit.bundle.paths import DOCUMENTS, EVIDENCE_NAME, MANIFEST_NAME
from edgekit.bundle.rules import manifest_fault
from edgekit.bundle.source import FolderSource, MemorySource, Source
from edgekit.core.artifact import FileEntry
from edgekit.core.codec import nearest
from edgekit.core.errors import BundleError
from edgekit.core.verdict import Standing, Status, Verdict, deliver_verdict

Requirement = Literal["proven", "candidate"]


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedBundle:
    """A bundle all of whose bytes are what its manifest says.

    name: where it was read from. contents: the checked bytes of every file by path.
    """

    name: str
    bundle_id: str
    manifest: Manifest
    evidence: Evidence
    contents: Mapping[str, bytes] = field(repr=False)

    def read(self, path: str) -> bytes:
        """The checked bytes of one file.

        Raises: BundleError for a path that the manifest does not list.
        """
        if path not in self.contents:
            raise BundleError(f"{self.name}: no file '{path}'{nearest(path, list(self.contents))}")
        return self.contents[path]


def open_bundle(
    path: str | os.PathLike[str], *, require: Requirement | None = None
) -> VerifiedBundle:
    """A verified bundle whose standing is at least ``require``.

    Raises: BundleError with the limits that are pending or waived where proof is required.
    """
    if require not in (None, *get_args(Requirement)):
        raise BundleError(f"require is '{require}'{nearest(str(require), get_args(Requirement))}")
    bundle = verify_bundle(path)
    if require == "proven":
        _require_proven(bundle)
    return bundle


def verify_bundle(path: str | os.PathLike[str]) -> VerifiedBundle:
    """Everything that can be checked of a bundle, a folder or a zip, checked.

    Raises: BundleError, and nothing else, with the file and what is wrong with it.
    """
    return verify_source(_source_of(os.fspath(path)))


def verify_source(source: Source) -> VerifiedBundle:
    """``verify_bundle`` for files from anywhere."""
    found = source.paths()
    data = source.read(MANIFEST_NAME, maximum_bytes=MAXIMUM_DOCUMENT_BYTES)
    manifest = decode_manifest(data, where=f"{source.name}: {MANIFEST_NAME}")
    fault = manifest_fault(manifest)
    if fault:
        raise BundleError(f"{source.name}: {MANIFEST_NAME}: {fault}")
    _check_listing(source.name, found, manifest)
    bundle_id = hashlib.sha256(data).hexdigest()
    evidence = _checked_evidence(source, manifest, bundle_id)
    contents = {entry.path: _checked_file(source, entry) for entry in manifest.files}
    return VerifiedBundle(
        name=source.name,
        bundle_id=bundle_id,
        manifest=manifest,
        evidence=evidence,
        contents=contents,
    )


def _source_of(name: str) -> Source:
    try:
        mode = os.stat(name).st_mode  # noqa: PTH116 -- without pathlib, as in `source`
        if stat.S_ISDIR(mode):
            return FolderSource(name)
        if not stat.S_ISREG(mode):
            raise BundleError(f"{name}: neither a folder nor a zip file")
        # Imported here: a folder needs it not, and a session should open no slower for it.
        from edgekit.bundle.zipped import decode_zip  # noqa: PLC0415

        with open(name, "rb") as file:  # noqa: PTH123
            size_bytes = os.fstat(file.fileno()).st_size
            return MemorySource(name, decode_zip(file, size_bytes, where=name))
    except FileNotFoundError as fault:
        raise BundleError(f"{name}: there is no such bundle") from fault
    except (OSError, ValueError) as fault:
        raise BundleError(f"{name!r}: cannot be read: {fault}") from fault
    except MemoryError as fault:
        raise BundleError(f"{name}: does not fit into memory") from fault


def _check_listing(name: str, found: list[str], manifest: Manifest) -> None:
    wanted = {entry.path for entry in manifest.files} | set(DOCUMENTS)
    for path in sorted(wanted.difference(found)):
        raise BundleError(f"{name}: '{path}' is missing")
    for path in sorted(set(found).difference(wanted)):
        raise BundleError(f"{name}: {path!r} is not listed in {MANIFEST_NAME}")


def _checked_file(source: Source, entry: FileEntry) -> bytes:
    content = source.read(entry.path, maximum_bytes=entry.bytes)
    if len(content) != entry.bytes:
        raise BundleError(
            f"{source.name}: '{entry.path}' has {len(content)} bytes; it must have {entry.bytes}"
        )
    if hashlib.sha256(content).hexdigest() != entry.sha256:
        raise BundleError(f"{source.name}: '{entry.path}' was changed: its sha256 differs")
    return content


def _checked_evidence(source: Source, manifest: Manifest, bundle_id: str) -> Evidence:
    where = f"{source.name}: {EVIDENCE_NAME}"
    data = source.read(EVIDENCE_NAME, maximum_bytes=MAXIMUM_DOCUMENT_BYTES)
    evidence = decode_evidence(data, where=where)
    if evidence.bundle_id != bundle_id:
        raise BundleError(
            f"{where}: belongs to bundle {evidence.bundle_id[:12]!r}, "
            f"but {MANIFEST_NAME} is bundle '{bundle_id[:12]}'"
        )
    figures = {figure.name: figure for figure in evidence.figures}
    if len(figures) != len(evidence.figures):
        raise BundleError(f"{where}: a figure stands twice")
    verdict = deliver_verdict(manifest.limits, figures, waived=manifest.waived)
    if _meaning(verdict) != _meaning(evidence.verdict):
        raise BundleError(
            f"{where}: says '{evidence.verdict.standing}', but its figures under the manifest's "
            f"limits are judged otherwise (standing '{verdict.standing}')"
        )
    if verdict.standing is Standing.REFUSED:
        missed = ", ".join(
            item.limit.figure for item in verdict.of(Status.FAIL, Status.INCONCLUSIVE)
        )
        raise BundleError(f"{where}: the verdict is refused ({missed}); no bundle may hold that")
    return evidence


def _meaning(verdict: Verdict) -> tuple[object, ...]:
    """What a verdict says, less the words: another version of edgekit may put it otherwise."""
    judged = tuple((item.limit, item.figure, item.status) for item in verdict.judgements)
    return verdict.standing, judged


def _require_proven(bundle: VerifiedBundle) -> None:
    verdict = bundle.evidence.verdict
    if verdict.standing is Standing.PROVEN:
        return
    open_limits = "; ".join(
        f"{item.limit.figure} is {item.status} ({item.reason})"
        for item in verdict.of(Status.PENDING, Status.WAIVED)
    )
    raise BundleError(
        f"{bundle.name}: is a {verdict.standing}, and proven was required: {open_limits}"
    )
