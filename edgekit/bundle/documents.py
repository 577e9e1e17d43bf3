"""The bytes of the two documents, strictly both ways: what decodes also encodes back to itself."""

import json
from typing import Any, NoReturn, TypeVar

from edgekit.bundle.manifest import SCHEMA, Evidence, Manifest
from edgekit.bundle.paths import EVIDENCE_NAME, MANIFEST_NAME
from edgekit.core.codec import canonical_json, digest_of, from_plain, to_plain
from edgekit.core.errors import BundleError

MAXIMUM_DOCUMENT_BYTES = 16 * 2**20

T = TypeVar("T")


def normalised(cls: type[T], value: T, *, where: str) -> T:
    """``value`` as it comes back from its own JSON: whole numbers in float fields become floats.

    Raises: BundleError where it would not come back.
    """
    try:
        plain = json.loads(canonical_json(value))
    except (ValueError, TypeError) as fault:
        raise BundleError(f"{where}: cannot be written as JSON: {fault}") from fault
    return from_plain(cls, plain, where=where, error=BundleError)


def decode_manifest(data: bytes, *, where: str = MANIFEST_NAME) -> Manifest:
    """A manifest from exactly the bytes that edgekit writes for it.

    Raises: BundleError for anything else.
    """
    plain = _load(data, where)
    _check_schema(plain, where)
    manifest = from_plain(Manifest, plain, where=where, error=BundleError)
    _check_canonical(data, manifest, where)
    return manifest


def encode_evidence(evidence: Evidence) -> bytes:
    """The bytes of ``evidence.json``: the evidence and the sha256 of its canonical JSON."""
    return canonical_json({"evidence": to_plain(evidence), "sha256": digest_of(evidence)})


def decode_evidence(data: bytes, *, where: str = EVIDENCE_NAME) -> Evidence:
    """Evidence from exactly the bytes that edgekit writes for it, its checksum checked.

    Raises: BundleError for anything else.
    """
    plain = _load(data, where)
    if set(plain) != {"evidence", "sha256"}:
        raise BundleError(f"{where}: holds {sorted(plain)}; it must be 'evidence' and 'sha256'")
    content = plain["evidence"]
    if not isinstance(content, dict):
        raise BundleError(f"{where}: 'evidence' is not a table")
    _check_schema(content, where)
    evidence = from_plain(Evidence, content, where=where, error=BundleError)
    if plain["sha256"] != digest_of(evidence):
        raise BundleError(f"{where}: its content does not match its sha256; it was changed")
    _check_canonical(data, {"evidence": evidence, "sha256": plain["sha256"]}, where)
    return evidence


def _load(data: bytes, where: str) -> dict[str, Any]:
    if len(data) > MAXIMUM_DOCUMENT_BYTES:
        raise BundleError(
            f"{where}: {len(data)} bytes; at most {MAXIMUM_DOCUMENT_BYTES} are allowed"
        )
    try:
        plain = json.loads(data.decode("utf-8"), parse_constant=_refuse_constant)
        # Before any message is made of its values: a lone surrogate in one could not be printed,
        # and a number such as 1e999 is no JSON that edgekit writes.
        canonical_json(plain)
    except RecursionError:
        raise BundleError(f"{where}: nested too deeply to be a document of edgekit's") from None
    except ValueError as fault:
        raise BundleError(f"{where}: no valid JSON: {fault}") from fault
    if not isinstance(plain, dict):
        raise BundleError(f"{where}: not a JSON object")
    return plain


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _check_schema(plain: dict[str, Any], where: str) -> None:
    schema = plain.get("schema")
    if not isinstance(schema, int) or isinstance(schema, bool) or schema < SCHEMA:
        raise BundleError(f"{where}: schema is {str(schema)[:80]!r}; it must be {SCHEMA}")
    if schema > SCHEMA:
        raise BundleError(
            f"{where}: written in schema {str(schema)[:80]}; this edgekit reads schema {SCHEMA}. "
            "Upgrade it: pip install --upgrade edgekit"
        )


def _check_canonical(data: bytes, value: Any, where: str) -> None:
    if canonical_json(value) != data:
        raise BundleError(f"{where}: not the canonical JSON that edgekit writes; it was edited")
