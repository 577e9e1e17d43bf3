"""Every architecture of the tests on a bench, with random inputs as calibration data."""

import copy

import torch

from edgekit.compress.bench import Bench
from edgekit.core.contract import Contract, InputContract, OutputContract, Tensor
from edgekit.data.checks import write_checked
from edgekit.evaluate.metrics import resolve_metric
from tests.compress.architectures import ALL, IDS


def bench_of_architecture(name, folder):
    """One of the architectures on a bench, its inputs as calibration data."""
    made = ALL[name]
    dtype = "int64" if made.shape == IDS else "float32"
    source = Tensor(shape=made.shape[1:], dtype=dtype)
    rows = torch.cat([made.inputs(seed) for seed in range(3)]).numpy()
    data = write_checked(
        list(rows), {"x": source}, folder / "data", set_name="calibration", needs_target=False
    ).dataset
    model = made.model()

    with torch.no_grad():
        shape = call(model, {"x": made.inputs()})["0"].shape
    return Bench(
        model=model,
        teacher=copy.deepcopy(model).eval(),
        contract=Contract(
            inputs=(
                InputContract(
                    name="x", dtype=dtype, shape=("batch", *made.shape[1:]), source=source
                ),
            ),
            outputs=(OutputContract(name="0", dtype="float32", shape=("batch", *shape[1:])),),
        ),
        call=call,
        training=None,
        calibration=data,
        selection=data,
        metric=resolve_metric("cosine"),
        checkpoints=folder / "checkpoints",
    )


@torch.no_grad()
def assert_same_outputs(bench, model):
    """The model gives what the float model gives, within float32's rounding."""
    example = bench.example()
    wanted, found = bench.call(bench.teacher, example), bench.call(model, example)
    for key, value in wanted.items():
        assert float((found[key] - value).abs().max()) < 1e-4 * float(value.abs().max())


def call(module, inputs):
    """The outputs by their place."""
    found = module(inputs["x"])
    parts = found.to_tuple() if hasattr(found, "to_tuple") else found
    parts = parts if isinstance(parts, (tuple, list)) else (parts,)
    return {str(index): part for index, part in enumerate(parts)}
