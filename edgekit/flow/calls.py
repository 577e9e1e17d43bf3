"""What the parts of a build share: the captured model, the plan, and how a stage is called."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgekit.core.codec import to_plain
from edgekit.core.progress import Reporter
from edgekit.core.stage import StageRequest
from edgekit.flow.planning import Plan
from edgekit.flow.prepare import Model
from edgekit.flow.stages import Runner, StageOutcome
from edgekit.flow.toolchain import UsableToolchain

# A folder and the digest of what it holds, by role.
Inputs = Mapping[str, tuple[Path, str]]


class StageCaller:
    """Calls stages of one build, by default in the target's own toolchain."""

    def __init__(
        self,
        model: Model,
        plan: Plan,
        runner: Runner,
        toolchain: UsableToolchain,
        reporter: Reporter,
    ) -> None:
        self.model = model
        self.plan = plan
        self.runner = runner
        self.toolchain = toolchain
        self.reporter = reporter
        self.contract = to_plain(model.contract)

    def call(
        self,
        name: str,
        handler: str,
        settings: Mapping[str, Any],
        inputs: Inputs,
        *,
        is_here: bool = False,
        is_cached: bool = True,
    ) -> StageOutcome:
        """Run a stage in a process of its own, with the contract among its settings.

        is_here: in this environment, whatever the target's toolchain is. is_cached: False for what
        must be measured anew each time.
        """
        request = StageRequest(
            name=name,
            handler=handler,
            settings={"contract": self.contract, **settings},
            inputs={role: str(folder) for role, (folder, _) in inputs.items()},
            digests={role: digest for role, (_, digest) in inputs.items()},
        )
        toolchain = None if is_here else self.toolchain
        return self.runner.run(request, place="process", toolchain=toolchain, is_cached=is_cached)
