"""The self-test: golden inputs through a session, held against golden outputs."""

import io
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod

import numpy as np

from edgekit.bundle.manifest import Golden
from edgekit.core.errors import BundleError
from edgekit.runtime.engine import Array

_NPY_MAGIC = b"\x93NUMPY\x01\x00"
_NPY_HEADER = re.compile(
    rb"\{'descr': '(?P<dtype><f[248]|<[iu][248]|\|[iu]1|\|b1)', 'fortran_order': False, "
    rb"'shape': \((?P<shape>|[0-9]{1,12},|[0-9]{1,12}(?:, [0-9]{1,12}){1,7})\), \} *\n"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SelfTest:
    """How far this device's outputs are from the golden ones.

    differences: the largest absolute difference an output (infinite where NaN, or another shape or
    dtype came out). tolerance: what counts as equal.
    """

    samples: int
    differences: dict[str, float]
    tolerance: dict[str, float]

    @property
    def failed(self) -> tuple[str, ...]:
        """The outputs that are not equal within their tolerance."""
        # Written so that NaN fails.
        return tuple(
            name
            for name, difference in self.differences.items()
            if not difference <= self.tolerance[name]
        )

    @property
    def is_passed(self) -> bool:
        """Whether every output is equal within its tolerance."""
        return bool(self.differences) and not self.failed

    def __str__(self) -> str:
        """One line for a person."""
        parts = ", ".join(
            f"{name} differs by {difference:.3g} (tolerance {self.tolerance[name]:.3g})"
            for name, difference in self.differences.items()
        )
        return f"self-test {'passed' if self.is_passed else 'failed'}: {parts}"


def run_self_test(
    golden: Golden,
    read: Callable[[str], bytes],
    run: Callable[[Mapping[str, Array]], Mapping[str, Array]],
) -> SelfTest:
    """Run the golden inputs and compare every output.

    Raises: BundleError for golden files that are no arrays of the manifest's number of samples.
    """
    inputs = {name: _array(golden, read, path) for name, path in golden.inputs.items()}
    wanted = {name: _array(golden, read, path) for name, path in golden.outputs.items()}
    found = run(inputs)
    return SelfTest(
        samples=golden.samples,
        differences={name: _difference(found[name], array) for name, array in wanted.items()},
        tolerance=dict(golden.tolerance),
    )


def _array(golden: Golden, read: Callable[[str], bytes], path: str) -> Array:
    array = decode_npy(read(path), where=path)
    if array.ndim == 0 or array.shape[0] != golden.samples:
        raise BundleError(
            f"{path}: has shape {array.shape}; the manifest says {golden.samples} samples"
        )
    return array


def _difference(found: Array, wanted: Array) -> float:
    if found.shape != wanted.shape or found.dtype != wanted.dtype:
        return float("inf")
    difference = np.abs(found.astype(np.float64) - wanted.astype(np.float64))
    largest = float(difference.max())
    return float("inf") if np.isnan(largest) else largest


def encode_npy(array: Array) -> bytes:
    """The bytes of a .npy file of an array (version 1.0, C order)."""
    stream = io.BytesIO()
    np.lib.format.write_array(
        stream,
        np.ascontiguousarray(array).reshape(array.shape),
        version=(1, 0),
        allow_pickle=False,
    )
    return stream.getvalue()


def decode_npy(data: bytes, *, where: str) -> Array:
    """The array of a .npy file as numpy writes it: version 1.0, C order, numbers.

    The header is matched, not evaluated, and may claim no more bytes than there are.
    Raises: BundleError.
    Source: numpy.lib.format, "Format Version 1.0".
    """
    start = 10 + int.from_bytes(data[8:10], "little")
    header = _NPY_HEADER.fullmatch(data[10:start])
    if data[:8] != _NPY_MAGIC or header is None:
        raise BundleError(f"{where}: not a .npy file of numbers in C order")
    dtype = np.dtype(header["dtype"].decode())
    shape = tuple(int(size) for size in header["shape"].split(b",") if size.strip())
    body = memoryview(data)[start:]
    if prod(shape) * dtype.itemsize != len(body):
        raise BundleError(f"{where}: {len(body)} bytes of {dtype} do not fill shape {shape}")
    return np.frombuffer(body, dtype=dtype).reshape(shape)
