import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekit.compile.onnx_interface import rename_interface
from edgekit.core.contract import Contract, InputContract, OutputContract, Tensor
from edgekit.core.errors import CompileError
from tests.compile.onnx_tools import session


def contract(inputs, outputs, dtype="float32"):
    return Contract(
        inputs=tuple(
            InputContract(name=name, dtype=dtype, shape=("batch", 2), source=Tensor(shape=(2,)))
            for name in inputs
        ),
        outputs=tuple(
            OutputContract(name=name, dtype=dtype, shape=("batch", 2)) for name in outputs
        ),
    )


def make(nodes, inputs, outputs, tensors=None):
    def info(name):
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 2])

    graph = helper.make_graph(
        nodes,
        "g",
        [info(name) for name in inputs],
        [info(name) for name in outputs],
        [numpy_helper.from_array(np.float32(v), k) for k, v in (tensors or {}).items()],
    )
    imports = [helper.make_opsetid("", 21)]
    return helper.make_model(graph, opset_imports=imports, ir_version=10)


ONE, TWO = np.float32([[1, 2]]), np.float32([[10, 20]])


def run(model, **feeds):
    onnx.checker.check_model(model, full_check=True)
    return session(model).run(None, feeds)


def test_names_that_the_contract_swaps_do_not_collide():
    model = make([helper.make_node("Sub", ["a", "b"], ["c"])], ["a", "b"], ["c"])
    rename_interface(model, contract(["b", "a"], ["c"]))
    np.testing.assert_array_equal(run(model, b=ONE, a=TWO)[0], ONE - TWO)


def test_an_inner_tensor_gives_way_to_the_contracts_name():
    nodes = [
        helper.make_node("Mul", ["x", "y"], ["logits"]),
        helper.make_node("Neg", ["logits"], ["z"]),
    ]
    model = make(nodes, ["x"], ["z"], {"y": 3.0})
    rename_interface(model, contract(["y"], ["logits"]))
    np.testing.assert_array_equal(run(model, y=ONE)[0], -3 * ONE)


def test_an_output_that_is_given_twice_or_is_an_input_is_copied():
    model = make([helper.make_node("Neg", ["x"], ["y"])], ["x"], ["y", "x"])
    model.graph.output.append(model.graph.output[0])
    rename_interface(model, contract(["in"], ["one", "two", "three"]))
    one, two, three = run(model, **{"in": ONE})
    np.testing.assert_array_equal(one, -ONE)
    np.testing.assert_array_equal(two, ONE)
    np.testing.assert_array_equal(three, -ONE)


def test_names_reach_nested_graphs():
    def branch(name, kind):
        out = helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 2])
        return helper.make_graph([helper.make_node(kind, ["x"], [name])], name, [], [out])

    node = helper.make_node(
        "If", ["is"], ["y"], then_branch=branch("p", "Neg"), else_branch=branch("q", "Abs")
    )
    model = make([node], ["x"], ["y"])
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "is"))
    rename_interface(model, contract(["image"], ["logits"]))
    np.testing.assert_array_equal(run(model, image=ONE)[0], -ONE)


def test_axes_take_the_contracts_names():
    model = make([helper.make_node("Neg", ["x"], ["y"])], ["x"], ["y"])
    rename_interface(model, contract(["x"], ["y"]))
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"


def test_another_dtype_than_the_contracts_is_refused():
    model = make([helper.make_node("Neg", ["x"], ["y"])], ["x"], ["y"])
    with pytest.raises(CompileError, match=r"input 0 \('x'\) is float32.*int64"):
        rename_interface(model, contract(["x"], ["y"], "int64"))
