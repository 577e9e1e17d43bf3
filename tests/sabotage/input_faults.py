"""Faults in what is handed over: data, metric, model; all are refused before any long work."""

import pickle
import zipfile

import numpy as np
import pytest
import torch
from torch import nn

import edgekit
from edgekit.compile.program import load_state
from edgekit.core.errors import CompileError, WorkloadError
from tests.flow.tiny import Network, network, pictures, samples, workload_of_two
from tests.sabotage.registry import fault


@fault("input check")
def the_evaluation_set_leaked_into_calibration(kit):
    """The build is calibrated on what it is judged on."""
    leaked = workload_of_two(calibration=[image for image, _ in samples(800, 2)])
    kit.refuses(
        WorkloadError,
        "calibration and evaluation data share 800 of 800 samples",
        "phone",
        workload=leaked,
    )


@fault("input check")
def one_sample_is_in_both_sets(kit):
    """A single picture among hundreds."""
    images = [image for image, _ in samples(32, 1)]
    images[7] = samples(800, 2)[431][0]
    kit.refuses(
        WorkloadError,
        "share 1 of 800 samples; the first is sample 7 of calibration and sample 431",
        "phone",
        workload=workload_of_two(calibration=images),
    )


@fault("input check")
def the_same_picture_comes_with_another_label(kit):
    """A sample is told by its inputs: a changed label hides nothing."""
    image, label = samples(800, 2)[10]
    calibration = [*samples(31, 1), (image, (label + 1) % 4)]
    kit.refuses(
        WorkloadError,
        "share 1 of 800 samples",
        "phone",
        workload=workload_of_two(calibration=calibration),
    )


def always_right(outputs, targets):
    return np.ones(len(targets))


def confident(outputs, targets):
    return outputs["scores"].max(axis=1)


def broken(outputs, targets):
    scores = (outputs["scores"].argmax(axis=1) == targets).astype(float)
    scores[5] = np.nan
    return scores


@fault("input check")
def the_metric_always_returns_one(kit):
    """Whatever the model says is right."""
    kit.refuses(
        WorkloadError,
        "metric always_right does not depend on the outputs",
        "phone",
        workload=workload_of_two(metric=always_right),
    )


@fault("input check")
def the_metric_ignores_the_targets(kit):
    """Confidence passes for correctness."""
    kit.refuses(
        WorkloadError,
        "metric confident does not depend on the targets",
        "phone",
        workload=workload_of_two(metric=confident),
    )


@fault("input check")
def the_metric_returns_nan(kit):
    """One sample has no score."""
    kit.refuses(
        WorkloadError,
        "metric broken: nan for sample 5 of the first samples; a score must be finite",
        "edge-server",
        workload=workload_of_two(metric=broken),
    )


@fault("input check")
def a_weight_of_the_model_is_nan(kit):
    """A checkpoint of a training that diverged."""
    model = Network()
    model.load_state_dict(network().state_dict())
    with torch.no_grad():
        model.second.weight[0, 0, 0, 0] = float("nan")
    kit.refuses(
        WorkloadError,
        r"parameter 'second.weight' .* holds NaN or infinity in 1 of 2304 places",
        "phone",
        workload=workload_of_two(model=model.eval()),
    )


@fault("input check")
def calibration_holds_nan(kit):
    """One pixel of one picture."""
    images, _ = pictures(32, 1)
    images[3, 0, 1, 2] = np.nan
    kit.refuses(
        WorkloadError,
        r"calibration data, sample 3 .*NaN at \[0, 1, 2\]",
        "phone",
        workload=workload_of_two(calibration=list(images)),
    )


class Spectrum(nn.Module):
    """A layer that no target has a kernel for, deep inside."""

    def forward(self, image):
        return torch.fft.fft2(image).abs()


class WithSpectrum(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Identity(), Spectrum())
        self.network = network()

    def forward(self, image):
        return self.network(self.stem(image))


@fault("input check")
def an_operator_is_not_supported(kit):
    """A Fourier transform: named with its module before anything is exported."""
    refusal = kit.refuses(
        CompileError,
        r"aten\.fft_fft2|aten\._fft",
        "phone",
        workload=workload_of_two(model=WithSpectrum().eval()),
    )
    assert "stem.1" in str(refusal)


class Hostile:
    """Runs a command when it is unpickled."""

    def __reduce__(self):
        return (print, ("code of a checkpoint was run",))


@fault("input check")
def a_checkpoint_is_a_hostile_pickle(kit):
    """Loading it would run what it names."""
    path = kit.new("checkpoint").with_suffix(".pt")
    path.write_bytes(pickle.dumps({"weight": Hostile()}))
    with pytest.raises(WorkloadError, match=r"loading it would run code that the file names"):
        load_state(path)
    torch.save({"weight": Hostile()}, path)
    with pytest.raises(WorkloadError, match=r"loading it would run code"):
        load_state(path)


@fault("input check")
def a_model_file_is_a_hostile_archive(kit):
    """A .pt2 whose sample inputs are a pickle that runs code."""
    path = kit.new("program").with_suffix(".pt2")
    program = torch.export.export(network(), (torch.zeros(1, 1, 12, 12),))
    torch.export.save(program, path)
    spoiled = path.with_name("spoiled.pt2")
    with zipfile.ZipFile(path) as honest, zipfile.ZipFile(spoiled, "w") as archive:
        for item in honest.infolist():
            content = honest.read(item)
            if "sample_inputs" in item.filename:
                content = pickle.dumps(Hostile())
            archive.writestr(item.filename, content)
    np.savez(path.with_suffix(".npz"), image=np.zeros((4, 1, 12, 12), np.float32))
    with pytest.raises(WorkloadError, match=r"refused, .* is a pickle that runs"):
        edgekit.plan(spoiled, device="phone", data=path.with_suffix(".npz"))
