"""What a module step gets to work with: the user's live objects, put on a bench."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from edgekit.compile.flat import select_outputs, takes_by_name
from edgekit.compress.bench import Bench, Call
from edgekit.compress.masks import bake_masks, copy_model
from edgekit.compress.state import load_state
from edgekit.compress.training.augment import make_augment
from edgekit.compress.training.faults import faults_of
from edgekit.core.contract import Contract
from edgekit.core.errors import StepError, WorkloadError
from edgekit.evaluate.metrics import Metric, resolve_metric
from edgekit.flow.fingerprint import fingerprint
from edgekit.flow.planning import Plan
from edgekit.flow.prepare import DataSets, Model

BaseKind = Literal["model", "student"]
DROP = "metric_drop"
# How steps judge where no data but those of the verdict have targets.
LIKENESS = "cosine"


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """The model as it stands between two steps.

    folder: where the last step wrote it; None before the first. base: what it is read back onto.
    """

    folder: Path | None = None
    base: BaseKind = "model"


class Workbench:
    """Makes benches for the steps of one build."""

    def __init__(
        self, model: Model, plan: Plan, data: DataSets, metric: Metric, *, seed: int
    ) -> None:
        self._workload = model.workload
        self._contract = model.contract
        self._plan = plan
        self._data = data
        self._metric = metric
        self._seed = seed

    @cached_property
    def device(self) -> torch.device:
        """CUDA where there is one."""
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")

    @cached_property
    def functions(self) -> dict[str, str | None]:
        """Digests of the user's functions; None for one whose content cannot be told."""
        given = self._workload
        named = {
            "loss": given.loss,
            "augment": given.augment,
            "student": given.student,
            "trainer": given.trainer,
            "teachers": tuple(given.teachers),
            "metric": given.metric,
            "class": type(given.model),
        }
        return {name: fingerprint(value) for name, value in named.items() if value is not None}

    def make(self, standing: Standing, checkpoints: Path) -> Bench:
        """A bench with the model as it stands; what is on it may be changed.

        Raises: WorkloadError or StepError for objects of the user's that cannot be used.
        """
        given, data = self._workload, self._data
        model, masks = self.load(standing)
        return Bench(
            model=model.to(self.device),
            teacher=self._teacher(given.model),
            teachers=tuple(self._teacher(item) for item in given.teachers),
            masks=masks,
            contract=self._contract,
            call=make_call(self._contract),
            training=data.training,
            unlabelled=data.unlabelled,
            calibration=data.calibration,
            selection=data.selection or data.calibration,
            metric=self.judged_by,
            checkpoints=checkpoints,
            loss=given.loss,
            augment=make_augment(given.augment, self._contract),
            student=None if given.student is None else self._student,
            trainer=given.trainer,
            drop_limit=self.drop_limit,
            seed=self._seed,
            device=self.device,
        )

    def load(self, standing: Standing) -> tuple[nn.Module, dict[str, Tensor]]:
        """The model as it stands, in eval mode on the CPU, and its masks."""
        base, masks = self.base(standing.base)
        if standing.folder is None:
            return base, masks
        loaded = load_state(base, standing.folder)
        return loaded.model, loaded.masks

    def base(self, kind: BaseKind) -> tuple[nn.Module, dict[str, Tensor]]:
        """A copy of the user's model, or a new student, with plain weights, in eval mode."""
        made = self._student() if kind == "student" else copy_model(self._workload.model)
        masks = bake_masks(made)
        return made.eval().cpu(), masks

    def _teacher(self, model: Any) -> nn.Module:
        teacher = copy_model(model)
        bake_masks(teacher)
        return teacher.eval().requires_grad_(requires_grad=False).to(self.device)

    def _student(self) -> nn.Module:
        make = self._workload.student
        if make is None:
            raise StepError("the workload has no student factory")
        # A new student starts from the same weights in every build of the same seed.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self._seed)
            with faults_of("the workload's student factory", WorkloadError):
                student = make()
        if not isinstance(student, nn.Module):
            raise WorkloadError(
                f"the student factory returned {type(student).__name__}; it must return a "
                "torch.nn.Module"
            )
        return student

    @cached_property
    def judged_by(self) -> Metric:
        """The metric of choices; without targets to choose on, likeness to the float model."""
        is_blind = self._metric.needs_target and self._data.selection is None
        return resolve_metric(LIKENESS) if is_blind else self._metric

    @property
    def drop_limit(self) -> float | None:
        """The bound on the metric's drop, where there is one and choices are judged by it."""
        if self.judged_by is not self._metric:
            return None
        bounds = [limit.bound for limit in self._plan.limits if limit.figure == DROP]
        return bounds[0] if bounds else None


def make_call(contract: Contract) -> Call:
    """How a model of this contract is called: tensors by input name in, by output name out."""
    inputs = tuple(item.name for item in contract.inputs)
    outputs = tuple(item.name for item in contract.outputs)

    def call(model: nn.Module, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
        chosen = {name: given[name] for name in inputs}
        found = model(**chosen) if takes_by_name(model, inputs) else model(*chosen.values())
        return dict(zip(outputs, select_outputs(found, outputs), strict=True))

    return call
