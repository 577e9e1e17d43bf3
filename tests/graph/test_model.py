import ml_dtypes
import numpy as np
import pytest

from edgekit.graph.model import decode_constant

TYPES = {"float8_e4m3fn": ml_dtypes.float8_e4m3fn, "float8_e5m2": ml_dtypes.float8_e5m2}


@pytest.mark.parametrize("name", TYPES)
def test_every_code_of_an_8_bit_float_is_read_as_ml_dtypes_reads_it(name):
    codes = np.arange(256, dtype=np.uint8)
    found = decode_constant(memoryview(codes.tobytes()), name, (16, 16), where="t")
    wanted = codes.view(TYPES[name]).astype(np.float32).reshape(16, 16)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, wanted)
    np.testing.assert_array_equal(np.signbit(found), np.signbit(wanted))
