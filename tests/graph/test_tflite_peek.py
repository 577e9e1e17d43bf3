"""What a .tflite holds, told without reading its graph."""

import pytest
from ai_edge_litert import schema_py_generated as schema

from edgekit.core.errors import InputError
from edgekit.graph.tflite_names import DTYPES
from edgekit.graph.tflite_peek import holds_dtype
from tests.graph import artifacts


@pytest.mark.parametrize(
    ("name", "recipe"), [("conv", "static8"), ("conv", "static4"), ("text", "dynamic4")]
)
def test_a_look_finds_the_dtypes_that_the_schema_finds(name, recipe):
    content = artifacts.quantized_tflite(name, recipe)
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    stored = {tensor.type for part in model.subgraphs for tensor in part.tensors}
    assert (schema.TensorType.INT4 in stored) == recipe.endswith("4")
    for code, dtype in enumerate(DTYPES):
        assert holds_dtype(content, dtype) == (code in stored)


@pytest.mark.parametrize("size", [0, 3, 20, 200])
def test_a_file_that_ends_too_early_is_an_error(size):
    with pytest.raises(InputError, match="cut off or damaged"):
        holds_dtype(artifacts.quantized_tflite("conv", "static8")[:size], "int4")
