"""Every error that edgekit raises on purpose, and the exit code it becomes.

EdgekitError                    1  (only subclasses are raised)
+-- InputError                  2  a file, value or option of the user's
|   +-- ProfileError            2  a device profile or target TOML
|   +-- WorkloadError           2  the workload, its data or its metric
|   +-- OutputError             2  the place where results should go
+-- StepError                   2  a compression step and its settings
|   +-- NothingGainedError      2  a step that would buy this model nothing
+-- BudgetError                 3  a limit that was missed, or not proven where asked
+-- CompileError                4  a model that a target cannot take
+-- MissingDependencyError      5  a library or toolchain that is not installed
+-- BundleError                 6  a bundle that is not what its manifest says
+-- SessionError                2  a call on an open bundle that cannot be served
+-- Interrupted               130  the user stopped the work
"""

from typing import ClassVar


class EdgekitError(Exception):
    """Base of every error that edgekit raises on purpose.

    A message says where, what is wrong with which value, what is allowed, and what to do.
    """

    exit_code: ClassVar[int] = 1


class InputError(EdgekitError):
    """Something the user handed over cannot be used."""

    exit_code = 2


class ProfileError(InputError):
    """A device profile or a target description is wrong."""


class WorkloadError(InputError):
    """The workload, its data or its metric is wrong."""


class OutputError(InputError):
    """The output path exists, is read-only or is full."""


class StepError(EdgekitError):
    """A compression step cannot do what its settings ask, or did nothing."""

    exit_code = 2


class NothingGainedError(StepError):
    """A step would buy this model nothing; its work is to be thrown away.

    why: what was found. remedy: for who asked for the step.
    """

    def __init__(self, why: str, remedy: str = "") -> None:
        super().__init__(f"{why}; {remedy}" if remedy else why)
        self.why = why


class BudgetError(EdgekitError):
    """A limit was missed, or could not be proven where proof was required.

    result: what was built and judged, for those who want the whole table (a BuildResult).
    """

    exit_code = 3

    def __init__(self, message: str, *, result: object | None = None) -> None:
        super().__init__(message)
        self.result = result


class CompileError(EdgekitError):
    """No artifact can be made of this model for this target."""

    exit_code = 4


class MissingDependencyError(EdgekitError):
    """A library, toolchain or program is not installed; the message names the command."""

    exit_code = 5


class BundleError(EdgekitError):
    """A bundle is not what its manifest says, or may not be opened as asked."""

    exit_code = 6


class SessionError(EdgekitError):
    """An open bundle cannot serve this call: names, shapes, dtypes or a closed session."""

    exit_code = 2


class Interrupted(EdgekitError):
    """The user stopped the work; finished stages stay in the cache."""

    exit_code = 130
