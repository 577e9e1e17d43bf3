"""Settings of the steps that change a torch model: plain values, one module a technique.

A profile writes them in TOML, ``plan`` checks them, ``compress`` reads them. Nothing here needs
torch. Each class states its defaults; ``Train`` is part of every step that trains.
"""

from edgekit.core.steps.awq import Awq
from edgekit.core.steps.distil import Distil
from edgekit.core.steps.equalize import Equalize
from edgekit.core.steps.factorize import Factorize
from edgekit.core.steps.lora import Lora
from edgekit.core.steps.prune import Prune
from edgekit.core.steps.rotate import Rotate
from edgekit.core.steps.round import AdaRound, Round
from edgekit.core.steps.rounding import Rounding
from edgekit.core.steps.search import Search
from edgekit.core.steps.smooth import Smooth
from edgekit.core.steps.sparsify import Sparsify
from edgekit.core.steps.spread import Spread
from edgekit.core.steps.train import Train

__all__ = [
    "AdaRound",
    "Awq",
    "Distil",
    "Equalize",
    "Factorize",
    "Lora",
    "Prune",
    "Rotate",
    "Round",
    "Rounding",
    "Search",
    "Smooth",
    "Sparsify",
    "Spread",
    "Train",
]
