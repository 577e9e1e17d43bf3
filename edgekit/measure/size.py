"""Bytes of an artifact: as it lies on disk, as it is downloaded, and with all that it needs."""

import zlib
from collections.abc import Iterable
from pathlib import Path

from edgekit.core.figure import Figure, Place, Provenance, exact, not_evaluated
from edgekit.core.target import RuntimeLibrary
from edgekit.core.units import format_bytes

_CHUNK = 1 << 20
# zlib's code for gzip's format with the largest window; the header then holds no time and no name.
_GZIP = 31


def artifact_bytes(files: Iterable[Path]) -> Figure:
    """``artifact_bytes``: the files that the engine opens."""
    return exact("artifact_bytes", total_bytes(files), "bytes", "size of the artifact's files")


def compressed_bytes(files: Iterable[Path]) -> Figure:
    """``compressed_bytes``: the same files as a download, each gzipped at level 9."""
    total = sum(_gzip_bytes(path) for path in files)
    return exact("compressed_bytes", total, "bytes", "gzip level 9 of the artifact's files")


def footprint_bytes(
    files: Iterable[Path], side_files: Iterable[Path], library: RuntimeLibrary | None, *, abi: str
) -> Figure:
    """``footprint_bytes``: artifact, side files and the engine's own library on the device.

    library: as the target's TOML cites it for ``abi``; without one the figure is not evaluated.
    Its upper bound, where it has one, is in the figure's upper end. A stand-in's bytes are no
    citation: the figure is then estimated, and no limit is settled by it.
    """
    artifact, side = total_bytes(files), total_bytes(side_files)
    if library is None:
        return not_evaluated(
            "footprint_bytes",
            "bytes",
            f"nobody has cited the size of the engine's library on {abi}; artifact and side files "
            f"take {format_bytes(artifact + side)}; cite it under runtime_library in the "
            "target's target.toml",
        )
    counted = f"artifact {format_bytes(artifact)} and side files {format_bytes(side)}, counted; "
    total = float(artifact + side + library.bytes)
    return Figure(
        name="footprint_bytes",
        value=total,
        unit="bytes",
        provenance=Provenance.ESTIMATED if library.is_stand_in else Provenance.CITED,
        place=Place.NOWHERE,
        how=counted + _how_known(library),
        low=total,
        high=float(artifact + side + library.upper_bytes),
    )


def _how_known(library: RuntimeLibrary) -> str:
    size = f"{format_bytes(library.bytes)} for {library.abi}, version {library.version}"
    if library.is_stand_in:
        return (
            f"library {size}, a stand-in and no citation: {library.source}; cite the real one "
            "under runtime_library in the target's target.toml"
        )
    if library.at_most_bytes is None:
        return f"library {size}, cited: {library.source}"
    return (
        f"library {size}, cited: {library.source}; the right one takes at most "
        f"{format_bytes(library.at_most_bytes)}: {library.at_most_source}"
    )


def total_bytes(files: Iterable[Path]) -> int:
    """The sum of the files' sizes."""
    return sum(path.stat().st_size for path in files)


def _gzip_bytes(path: Path) -> int:
    packer = zlib.compressobj(9, zlib.DEFLATED, _GZIP)
    total = 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            total += len(packer.compress(chunk))
    return total + len(packer.flush())
