"""The bytes of the documents, strictly."""

import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.bundle.documents import (
    MAXIMUM_DOCUMENT_BYTES,
    decode_evidence,
    decode_manifest,
    encode_evidence,
    normalised,
)
from edgekit.bundle.manifest import Manifest
from edgekit.core.errors import BundleError
from tests.bundle import samples

MANIFEST = samples.listed(samples.manifest(), samples.FILES)
EVIDENCE = samples.evidence(MANIFEST, MANIFEST.bundle_id)


def encode(plain: object) -> bytes:
    """Canonical JSON as the standard library writes it."""
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return text.encode() + b"\n"


def test_a_manifest_comes_back_as_it_was():
    assert decode_manifest(MANIFEST.encode()) == MANIFEST


def test_a_manifest_without_adapters_is_written_as_before_there_were_any():
    """The sha256 was taken with edgekit of 2026-11-22, whose manifests knew no adapters."""
    assert samples.manifest().bundle_id == (
        "108df001dd69c944eb62fc7c639e4cdcb716634e8dd3cec515b1c143c92dac3c"
    )
    assert b"adapter" not in MANIFEST.encode()


def test_evidence_comes_back_as_it_was_with_pending_figures_too():
    made = samples.manifest(limits=(*samples.LIMITS, samples.PENDING))
    evidence = samples.evidence(made, "0" * 64)
    assert decode_evidence(encode_evidence(evidence)) == evidence


def test_the_evidence_file_is_its_content_and_the_sha256_of_that():
    plain = json.loads(encode_evidence(EVIDENCE))
    digest = hashlib.sha256(encode(plain["evidence"])).hexdigest()
    assert plain["sha256"] == digest


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "no valid JSON"),
        (b"\xff", "no valid JSON"),
        (b"[]\n", "not a JSON object"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"schema":NaN}\n', "NaN"),
        (b'{"schema":1e999}\n', "no valid JSON"),
        (b'{"schema":"\\ud800"}\n', "no valid JSON"),
        (b'{"schema":' + b"9" * 5000 + b"}\n", "no valid JSON"),
        (b"{}\n", "schema is"),
        (b'{"schema":true}\n', "schema is"),
        (b'{"schema":0}\n', "schema is"),
        (b'{"schema":1}\n', "is missing"),
        (b'{"schema":1,"nam":2}\n', "did you mean 'name'"),
    ],
)
def test_what_is_no_manifest_is_refused_with_the_reason(data, reason):
    with pytest.raises(BundleError, match=reason):
        decode_manifest(data)


def test_a_later_schema_asks_for_an_upgrade():
    plain = json.loads(MANIFEST.encode())
    with pytest.raises(BundleError, match="pip install --upgrade edgekit"):
        decode_manifest(encode({**plain, "schema": 2, "novelty": []}))


def test_a_document_past_the_limit_is_not_parsed():
    with pytest.raises(BundleError, match="at most"):
        decode_manifest(b" " * (MAXIMUM_DOCUMENT_BYTES + 1))


@pytest.mark.parametrize(
    "edit",
    [
        lambda data: data + b"\n",
        lambda data: data.rstrip(),
        lambda data: data.replace(b'"seed":0', b'"seed": 0'),
        lambda data: data.replace(b'"seed":0', b'"seed":0,"seed":0'),
        lambda data: data.replace(b'"bound":1000.0', b'"bound":1e3'),
    ],
)
def test_a_manifest_that_was_written_otherwise_is_refused(edit):
    assert edit(MANIFEST.encode()) != MANIFEST.encode()
    with pytest.raises(BundleError, match="canonical"):
        decode_manifest(edit(MANIFEST.encode()))


@pytest.mark.parametrize(
    ("plain", "reason"),
    [
        ({"evidence": {}}, "must be 'evidence' and 'sha256'"),
        ({"evidence": [], "sha256": ""}, "not a table"),
        ({"evidence": {"schema": 7}, "sha256": ""}, "Upgrade"),
        ({"evidence": {"schema": 1}, "sha256": ""}, "missing"),
    ],
)
def test_what_is_no_evidence_is_refused_with_the_reason(plain, reason):
    with pytest.raises(BundleError, match=reason):
        decode_evidence(encode(plain))


def test_a_changed_figure_does_not_match_the_checksum():
    data = encode_evidence(EVIDENCE).replace(b'"value":0.5', b'"value":0.4')
    with pytest.raises(BundleError, match="sha256"):
        decode_evidence(data)


def test_whole_numbers_in_float_fields_are_normalised_before_they_are_written():
    made = normalised(Manifest, samples.manifest(seed=3), where="manifest")
    assert decode_manifest(samples.listed(made, samples.FILES).encode()).seed == 3


def test_what_json_cannot_hold_is_refused_before_it_is_written():
    made = samples.manifest(versions={"x": float("nan")})
    with pytest.raises(BundleError, match="cannot be written"):
        normalised(Manifest, made, where="manifest")


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=20,
    )
)
def test_any_json_is_refused_with_a_bundle_error(plain):
    data = json.dumps(plain).encode()
    for decode in (decode_manifest, decode_evidence):
        with pytest.raises(BundleError):
            decode(data)


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_with_a_bundle_error(data):
    for decode in (decode_manifest, decode_evidence):
        with pytest.raises(BundleError):
            decode(data)
