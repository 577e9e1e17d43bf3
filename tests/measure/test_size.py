import gzip
import io

import numpy as np

from edgekit.core.figure import Place, Provenance
from edgekit.core.target import RuntimeLibrary
from edgekit.core.verdict import EvidenceKind, evidence_kind
from edgekit.measure.size import artifact_bytes, compressed_bytes, footprint_bytes

LIBRARY = RuntimeLibrary(
    abi="android-arm64", bytes=3_000_000, version="1", sha256="0" * 64, source="a release page"
)


def files(tmp_path):
    (tmp_path / "a").write_bytes(b"abc" * 500_000)
    (tmp_path / "b").write_bytes(np.random.default_rng(0).bytes(1000))
    return [tmp_path / "a", tmp_path / "b"]


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
    assert (figure.provenance, figure.place) == (Provenance.CITED, Place.NOWHERE)
    assert "a release page" in figure.how
    assert evidence_kind(figure) is EvidenceKind.CITED


def test_footprint_without_a_citation_is_not_evaluated_and_says_why(tmp_path):
    figure = footprint_bytes([files(tmp_path)[0]], [], None, abi="none")
    assert figure.value is None
    assert "nobody has cited the size of the engine's library on none" in figure.how
