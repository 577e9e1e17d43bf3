import numpy as np
import pytest
import torch
from torch import nn

from edgekit.compile.capture import capture, predict_reference
from edgekit.compile.program import load_program
from edgekit.core.contract import Image, Tensor
from edgekit.core.errors import CompileError, WorkloadError
from tests.compile import models
from tests.compile.conftest import WORKLOADS

X = {"x": Tensor(shape=(4,))}


def batch_for(contract, samples, seed=0):
    rng = np.random.default_rng(seed)
    return {
        item.name: rng.standard_normal((samples, *item.shape[1:])).astype(item.dtype)
        if item.dtype.startswith("float")
        else rng.integers(0, 100, (samples, *item.shape[1:]))
        for item in contract.inputs
    }


@pytest.mark.parametrize("name", list(WORKLOADS))
def test_a_captured_program_computes_what_the_module_computes(name, tmp_path, told):
    workload = WORKLOADS[name]()
    captured = capture(workload, tmp_path, told.reporter)
    batch = batch_for(captured.contract, 5)
    (found,) = predict_reference(tmp_path, [batch], captured.contract)
    with torch.no_grad():
        result = workload.model(*(torch.from_numpy(batch[name]) for name in workload.inputs))
    wanted = result if isinstance(result, dict) else {next(iter(workload.outputs)): result}
    assert list(found) == list(workload.outputs)
    for output, values in found.items():
        # The same operators in float, in batches of one or five: only the order of sums differs.
        np.testing.assert_allclose(values, wanted[output].numpy(), rtol=1e-4, atol=1e-5)
    assert told.events == []


def test_the_contract_has_shapes_with_the_batch_first_and_measured_dtypes(tmp_path, told):
    class Classify(nn.Module):
        def forward(self, x):
            return x.softmax(1), x.argmax(1, keepdim=True)

    workload = models.workload_of(Classify().eval(), X, ["scores", "label"])
    contract = capture(workload, tmp_path, told.reporter).contract
    assert [(item.name, item.dtype, item.shape) for item in contract.outputs] == [
        ("scores", "float32", (1, 4)),
        ("label", "int64", (1, 1)),
    ]
    assert contract.inputs[0].shape == (1, 4)
    assert contract.inputs[0].source == X["x"]


def test_a_dynamic_batch_is_an_axis_with_a_name(tmp_path, told):
    workload = models.mlp_workload(has_dynamic_batch=True)
    captured = capture(workload, tmp_path, told.reporter)
    assert captured.contract.inputs[0].shape == ("batch", 64)
    assert captured.contract.outputs[0].shape == ("batch", 10)
    assert captured.contract.has_dynamic_batch
    module = load_program(tmp_path / "model.pt2").module()
    assert [module(torch.zeros(n, 64))[0].shape[0] for n in (1, 2, 7)] == [1, 2, 7]


def test_an_exported_program_is_captured_like_its_module(tmp_path, told):
    workload = models.cnn_workload()
    program = torch.export.export(workload.model, (torch.zeros(1, 3, 16, 16),), strict=False)
    again = models.workload_of(program, {"image": Image(height=16, width=16)}, ["logits"])
    contract = capture(again, tmp_path, told.reporter).contract
    batch = batch_for(contract, 2)
    (found,) = predict_reference(tmp_path, [batch], contract)
    with torch.no_grad():
        wanted = workload.model(torch.from_numpy(batch["image"])).numpy()
    np.testing.assert_allclose(found["logits"], wanted, rtol=1e-4, atol=1e-5)


def test_a_programs_outputs_and_inputs_go_by_name_and_layers_keep_their_paths(tmp_path, told):
    workload = models.two_by_two_workload()
    sample = torch.zeros(1, 12), torch.zeros(1, 20)
    program = torch.export.export(workload.model, sample, strict=False)
    swapped = dict(reversed(workload.inputs.items()))
    again = models.workload_of(program, swapped, ["embedding", "score"])
    captured = capture(again, tmp_path, told.reporter)
    batch = batch_for(captured.contract, 3)
    (found,) = predict_reference(tmp_path, [batch], captured.contract)
    with torch.no_grad():
        wanted = workload.model(torch.from_numpy(batch["left"]), torch.from_numpy(batch["right"]))
    for name in ("embedding", "score"):
        np.testing.assert_allclose(found[name], wanted[name].numpy(), rtol=1e-4, atol=1e-5)
    assert {layer.module_path for layer in captured.facts.layers} == {
        "left",
        "right",
        "score",
        "embed",
    }


def test_a_compiled_module_is_captured_like_the_one_inside(tmp_path, told):
    workload = models.mlp_workload()
    inner = capture(workload, tmp_path, told.reporter)
    other = tmp_path / "other"
    other.mkdir()
    compiled = models.workload_of(torch.compile(workload.model), workload.inputs, ["logits"])
    assert capture(compiled, other, told.reporter).digest == inner.digest


def test_a_model_in_training_mode_is_switched_and_the_user_is_warned(tmp_path, told):
    workload = models.cnn_workload()
    before = {name: value.clone() for name, value in workload.model.state_dict().items()}
    workload.model.train()
    capture(workload, tmp_path, told.reporter)
    assert "training mode" in told.of("warning")[0]
    assert not workload.model.training
    after = workload.model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_bad_weights_are_refused_by_name(bad, tmp_path, told):
    workload = models.mlp_workload()
    with torch.no_grad():
        workload.model.layers[2].weight[1, 1] = bad
    with pytest.raises(WorkloadError, match=r"'layers\.2\.weight' \[64, 96\] .* 1 of 6144"):
        capture(workload, tmp_path, told.reporter)
    assert list(tmp_path.iterdir()) == []


def test_bad_statistics_are_refused_and_masks_of_infinity_are_not(tmp_path, told):
    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm1d(4)
            self.register_buffer("mask", torch.tensor([0.0, float("-inf"), 0.0, 0.0]))

        def forward(self, x):
            return (self.norm(x) + self.mask).softmax(1)

    model = Masked().eval()
    workload = models.workload_of(model, X, ["y"])
    assert capture(workload, tmp_path, told.reporter).facts.family == "other"
    model.norm.running_var[0] = float("inf")
    with pytest.raises(WorkloadError, match=r"norm\.running_var"):
        capture(workload, tmp_path, told.reporter)


def test_a_model_that_does_not_take_the_inputs_says_where_it_failed(tmp_path, told):
    wrong = {"x": Tensor(shape=(63,))}
    workload = models.workload_of(models.SmallMlp().eval(), wrong, ["logits"])
    with pytest.raises(WorkloadError, match=r"does not run on x float32 \[1, 63\].*'layers\.0'"):
        capture(workload, tmp_path, told.reporter)


def test_a_model_that_draws_random_numbers_is_refused(tmp_path, told):
    class Noisy(nn.Module):
        def forward(self, x):
            return x + torch.rand_like(x)

    workload = models.workload_of(Noisy().eval(), X, ["y"])
    with pytest.raises(WorkloadError, match="output 'y' differs between two runs"):
        capture(workload, tmp_path, told.reporter)


def test_an_output_without_a_batch_axis_is_refused(tmp_path, told):
    class Mean(nn.Module):
        def forward(self, x):
            return x.mean()

    with pytest.raises(WorkloadError, match="its first axis must be the batch"):
        capture(models.workload_of(Mean().eval(), X, ["y"]), tmp_path, told.reporter)


class Branch(nn.Module):
    def forward(self, x):
        return x * 2 if x.sum() > 0 else x - 1


class Outer(nn.Module):
    def __init__(self):
        super().__init__()
        self.branch = Branch()

    def forward(self, x):
        return self.branch(x)


def test_control_flow_that_depends_on_data_is_refused_with_the_module_path(tmp_path, told):
    workload = models.workload_of(Outer().eval(), X, ["y"])
    with pytest.raises(CompileError, match=r"depends on the data in 'branch' \(test_capture\.py:"):
        capture(workload, tmp_path, told.reporter)


class Picks(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = Picking()

    def forward(self, x):
        return self.inner(x)


class Picking(nn.Module):
    def forward(this, x):  # noqa: N805  # some do not call it self
        return x[:, x[0] > 0].sum(dim=1, keepdim=True) + x


def test_a_size_that_depends_on_data_is_refused_with_operator_and_module(tmp_path, told):
    workload = models.workload_of(Picks().eval(), X, ["y"])
    with pytest.raises(
        CompileError, match=r"of what aten\.\S+ gives in 'inner' depends on the data"
    ):
        capture(workload, tmp_path, told.reporter)


def test_the_line_is_the_models_own_whatever_its_first_argument_is_called(tmp_path, told):
    class Other(nn.Module):
        def forward(this, x):  # noqa: N805  # as above
            return torch.from_numpy(x.numpy())

    workload = models.workload_of(nn.Sequential(Other()).eval(), X, ["y"])
    with pytest.raises(CompileError, match=r"in '0' \(test_capture\.py:"):
        capture(workload, tmp_path, told.reporter)


def test_a_batch_that_cannot_vary_is_refused_with_a_way_out(tmp_path, told):
    class Fixed(nn.Module):
        def forward(self, x):
            return x.reshape(2, 4) * torch.arange(2).reshape(2, 1)

    workload = models.workload_of(Fixed().eval(), X, ["y"], has_dynamic_batch=True)
    with pytest.raises(CompileError, match="has_dynamic_batch=False"):
        capture(workload, tmp_path, told.reporter)


@pytest.mark.parametrize("model", ["model.pth", torch.jit.script(nn.ReLU())])
def test_what_is_no_module_is_refused(model, tmp_path, told):
    with pytest.raises(WorkloadError, match=r"must be a torch\.nn\.Module"):
        capture(models.workload_of(model, X, ["y"]), tmp_path, told.reporter)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ({"y": np.zeros((1, 64), np.float32)}, "input 'x' is missing; there are: y"),
        ({"x": np.zeros((1, 64))}, r"is float64 \[1, 64\]; the model takes float32"),
        ({"x": np.zeros((1, 65), np.float32)}, r"is float32 \[1, 65\]"),
    ],
)
def test_reference_predictions_refuse_other_inputs(batch, message, tmp_path, told):
    contract = capture(models.mlp_workload(), tmp_path, told.reporter).contract
    with pytest.raises(WorkloadError, match=message):
        list(predict_reference(tmp_path, [batch], contract))


def test_reference_predictions_give_the_threads_back(tmp_path, told):
    contract = capture(models.mlp_workload(), tmp_path, told.reporter).contract
    before = torch.get_num_threads()
    list(predict_reference(tmp_path, [batch_for(contract, 2)], contract))
    assert torch.get_num_threads() == before


@pytest.mark.slow
def test_resnet_20_scores_what_was_published_for_these_images(data_dir, tmp_path, told):
    model = models.pretrained_resnet(data_dir, 20)
    workload = models.workload_of(model, {"image": Image(height=32, width=32)}, ["logits"])
    contract = capture(workload, tmp_path, told.reporter).contract
    images, labels = models.cifar_images(data_dir / "cifar10_test_dev2000_jpeg.npz")
    batches = ({"image": images[i : i + 100]} for i in range(0, 2000, 100))
    scores = [found["logits"] for found in predict_reference(tmp_path, batches, contract)]
    # SOURCES.md: 81.10 % on the 2,000 JPEG images.
    assert (np.concatenate(scores).argmax(1) == labels).mean() == pytest.approx(0.811)


def test_a_model_without_values_is_refused_by_name(tmp_path, told):
    workload = models.workload_of(nn.Linear(4, 2, device="meta").eval(), X, ["y"])
    with pytest.raises(WorkloadError, match=r"parameter 'weight' .* has no values"):
        capture(workload, tmp_path, told.reporter)


def test_an_unknown_dtype_is_refused_with_those_that_are_known(tmp_path, told):
    inputs = {"x": Tensor(shape=(4,), dtype="float99")}
    workload = models.workload_of(nn.Linear(4, 2).eval(), inputs, ["y"])
    with pytest.raises(WorkloadError, match=r"'float99' is not known; allowed: float32, .*int64"):
        capture(workload, tmp_path, told.reporter)


def test_a_failed_capture_says_its_one_error_and_prints_no_graph(tmp_path, told, capfd):
    workload = models.workload_of(Branch().eval(), X, ["y"])
    with pytest.raises(CompileError, match="depends on the data"):
        capture(workload, tmp_path, told.reporter)
    assert capfd.readouterr() == ("", "")
