"""Finds and strictly reads the TOML of device profiles and targets.

``search`` says which file answers to a name; ``document`` reads one file into values that know
their line; ``reading`` takes typed values out of them; ``figures`` is the closed table of what a
limit may bound; ``profile`` and ``target`` make the types of ``core`` of it. May import ``core``
and the standard library. A new device or target is a TOML file, never code: see
docs/adding_a_device.md and docs/adding_a_target.md.
"""

from edgekit.catalog.figures import FIGURES, FigureKind
from edgekit.catalog.profile import load_profile
from edgekit.catalog.search import ProfileEntry, TargetEntry, find_profiles, find_targets
from edgekit.catalog.target import load_target

__all__ = [
    "FIGURES",
    "FigureKind",
    "ProfileEntry",
    "TargetEntry",
    "find_profiles",
    "find_targets",
    "load_profile",
    "load_target",
]
