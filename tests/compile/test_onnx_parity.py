import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from edgekit.compile.onnx_parity import compare, random_inputs, require_parity
from edgekit.core.contract import Contract, InputContract, OutputContract, Tensor
from edgekit.core.errors import CompileError


class Double(torch.nn.Module):
    def forward(self, x):
        return (x * 2,)


def contract(dtype="float32", batch=1):
    source = Tensor(shape=(4,), dtype=dtype)
    return Contract(
        inputs=(InputContract(name="x", dtype=dtype, shape=(batch, 4), source=source),),
        outputs=(OutputContract(name="y", dtype=dtype, shape=(batch, 4)),),
    )


def times(factor, kind="Mul"):
    graph = helper.make_graph(
        [helper.make_node(kind, ["x", "f"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4])],
        [numpy_helper.from_array(np.float32(factor), "f")],
    )
    imports = [helper.make_opsetid("", 21)]
    model = helper.make_model(graph, opset_imports=imports, ir_version=10)
    return model.SerializeToString()


@pytest.fixture(scope="module")
def program():
    return torch.export.export(Double(), (torch.randn(1, 4),))


def test_the_same_function_passes(program):
    require_parity(times(2.0), program, contract(), seed=0)


def test_a_graph_that_computes_something_else_is_refused(program):
    with pytest.raises(CompileError, match=r"output 'y'.*differs from torch"):
        require_parity(times(2.1), program, contract(), seed=0)


def test_a_graph_that_does_not_take_the_contracts_shapes_is_refused(program):
    wide = Contract(
        inputs=(InputContract(name="x", dtype="float32", shape=(1, 5), source=Tensor(shape=(5,))),),
        outputs=contract().outputs,
    )
    inputs = next(random_inputs(wide, 0))
    assert inputs["x"].shape == (1, 5)
    free = torch.export.export(
        Double(), (torch.randn(1, 5),), dynamic_shapes=({1: torch.export.Dim.AUTO},)
    )
    with pytest.raises(CompileError, match="does not run on inputs"):
        require_parity(times(2.0), free, wide, seed=0)


def test_a_graph_that_no_kernel_runs_is_refused(program):
    model = onnx.ModelProto.FromString(times(2.0))
    model.graph.node[0].op_type = "Nothing"
    with pytest.raises(CompileError, match="refuses the model"):
        require_parity(model.SerializeToString(), program, contract(), seed=0)


def test_random_inputs_follow_dtype_seed_and_dynamic_batch():
    batches = [item["x"].shape[0] for item in random_inputs(contract(batch="batch"), 0)]
    assert sorted(batches) == [1, 2, 3]
    ids = next(random_inputs(contract("int64"), 0))["x"]
    assert ids.dtype == np.int64
    assert set(ids.reshape(-1)) <= {0, 1}
    one, two = (next(random_inputs(contract(), 5))["x"] for _ in range(2))
    np.testing.assert_array_equal(one, two)


def test_compare_wants_equal_shapes_integers_and_finite_numbers():
    compare("y", np.float32([np.nan, 1]), np.float32([np.nan, 1]))
    with pytest.raises(CompileError, match="shape"):
        compare("y", np.zeros(2), np.zeros(3))
    with pytest.raises(CompileError, match="1 of 2 integers"):
        compare("y", np.int64([1, 2]), np.int64([1, 3]))
    with pytest.raises(CompileError, match="differs"):
        compare("y", np.float32([1, 1]), np.float32([1, np.inf]))
