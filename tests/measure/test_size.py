import gzip
import io
from dataclasses import replace

import numpy as np
import pytest

from edgekit.core.figure import Place, Provenance
from edgekit.core.target import RuntimeLibrary
from edgekit.core.verdict import EvidenceKind, Limit, Sense, Status, evidence_kind, judge
from edgekit.measure.size import artifact_bytes, compressed_bytes, footprint_bytes

LIBRARY = RuntimeLibrary(
    abi="android-arm64", bytes=3_000_000, version="1", sha256="0" * 64, source="a release page"
)


def files(tmp_path):
    (tmp_path / "a").write_bytes(b"abc" * 500_000)
    (tmp_path / "b").write_bytes(np.random.default_rng(0).bytes(1000))
    return [tmp_path / "a", tmp_path / "b"]


def limit(bound):
    return Limit(
        figure="footprint_bytes",
        sense=Sense.AT_MOST,
        bound=bound,
        unit="bytes",
        accepts=(EvidenceKind.CITED, EvidenceKind.HOST),
    )


def test_bytes_are_counted_exactly(tmp_path):
    figure = artifact_bytes(files(tmp_path))
    assert figure.low == figure.value == figure.high == 1_501_000
    assert evidence_kind(figure) is EvidenceKind.HOST


def test_compressed_bytes_are_those_of_gzip_9(tmp_path):
    total = 0
    for path in files(tmp_path):
        packed = io.BytesIO()
        with gzip.GzipFile("", "wb", 9, packed, mtime=0) as file:
            file.write(path.read_bytes())
        total += len(packed.getvalue())
    assert compressed_bytes(files(tmp_path)).value == total


def test_footprint_adds_side_files_and_the_cited_library(tmp_path):
    artifact, side = files(tmp_path)
    figure = footprint_bytes([artifact], [side], LIBRARY, abi="android-arm64")
    assert figure.value == 1_500_000 + 1000 + 3_000_000
    assert figure.low == figure.high == figure.value
    assert (figure.provenance, figure.place) == (Provenance.CITED, Place.NOWHERE)
    assert "a release page" in figure.how
    assert evidence_kind(figure) is EvidenceKind.CITED


def test_an_upper_bound_of_the_library_is_the_upper_end_and_is_told_in_words(tmp_path):
    library = replace(LIBRARY, at_most_bytes=9_000_000, at_most_source="the desktop library")
    figure = footprint_bytes([files(tmp_path)[0]], [], library, abi="android-arm64")
    assert (figure.low, figure.value, figure.high) == (4_500_000, 4_500_000, 10_500_000)
    assert "version 1, cited: a release page" in figure.how
    assert figure.how.endswith("the right one takes at most 9 MB: the desktop library")
    assert evidence_kind(figure) is EvidenceKind.CITED


@pytest.mark.parametrize(
    ("bound", "status"),
    [(10_500_000, "pass"), (10_499_999, "inconclusive"), (4_499_999, "fail")],
)
def test_a_limit_passes_only_where_even_the_upper_bound_fits(tmp_path, bound, status):
    library = replace(LIBRARY, at_most_bytes=9_000_000, at_most_source="the desktop library")
    figure = footprint_bytes([files(tmp_path)[0]], [], library, abi="android-arm64")
    assert judge(limit(bound), figure).status.value == status


def test_a_stand_in_settles_no_limit_and_says_what_to_do(tmp_path):
    library = replace(LIBRARY, is_stand_in=True)
    figure = footprint_bytes([files(tmp_path)[0]], [], library, abi="android-arm64")
    assert figure.provenance is Provenance.ESTIMATED
    judged = judge(limit(1e9), figure)
    assert judged.status is Status.PENDING
    assert "a stand-in and no citation: a release page; cite the real one" in judged.reason


def test_footprint_without_a_citation_is_not_evaluated_and_says_why(tmp_path):
    figure = footprint_bytes([files(tmp_path)[0]], [], None, abi="none")
    assert figure.value is None
    assert "nobody has cited the size of the engine's library on none" in figure.how
