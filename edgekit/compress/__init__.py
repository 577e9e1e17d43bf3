"""Compression of a torch model before it is exported, one technique a module; training lives here.

Every step is a function ``(settings, bench, reporter) -> StepResult``: ``bench.Bench`` holds the
model and all that a step may work with, and is put together by ``flow``. The parts of a step
(importances, losses, decompositions) are plain functions on torch objects, usable alone. ``state``
writes a changed model down and reads it back without pickles.

This module itself is light: it only registers what there is. To add a step, write its settings (a
frozen dataclass), its function, and register a ``StepSpec`` under the entry points
``edgekit.steps``. Imports ``runtime`` and below, never ``compile`` or ``measure``.
"""

from edgekit.core.strategy import ActsOn, StepSpec

PRUNE = StepSpec(
    name="prune",
    acts_on=ActsOn.MODULE,
    handler="edgekit.compress.pruning.prune:prune",
    settings="edgekit.core.steps:Prune",
    summary="takes out whole channels, heads, neurons or layers, and retrains the rest",
    is_training=True,
)

SPARSIFY = StepSpec(
    name="sparsify",
    acts_on=ActsOn.MODULE,
    handler="edgekit.compress.sparsity.sparsify:sparsify",
    settings="edgekit.core.steps:Sparsify",
    summary="sets single weights to zero: a smaller download, no speed unless measured",
)

DISTIL = StepSpec(
    name="distil",
    acts_on=ActsOn.MODULE,
    handler="edgekit.compress.distillation.distil:distil",
    settings="edgekit.core.steps:Distil",
    summary="trains a smaller student to do what the model does",
    is_training=True,
)

FACTORIZE = StepSpec(
    name="factorize",
    acts_on=ActsOn.MODULE,
    handler="edgekit.compress.low_rank.factorize:factorize",
    settings="edgekit.core.steps:Factorize",
    summary="writes large layers as products of thin ones (SVD, Tucker)",
)

LORA = StepSpec(
    name="lora",
    acts_on=ActsOn.MODULE,
    handler="edgekit.compress.low_rank.lora:lora",
    settings="edgekit.core.steps:Lora",
    summary="merges low-rank adapters, its own or trained here, into the weights",
)

TRAIN = StepSpec(
    name="train",
    acts_on=ActsOn.MODULE,
    handler="edgekit.compress.training.finetune:finetune",
    settings="edgekit.core.steps:Train",
    summary="trains the model further, on its own loss",
    is_training=True,
)

ROUND = StepSpec(
    name="round",
    acts_on=ActsOn.MODULE,
    handler="edgekit.compress.quantization.round:round_weights",
    settings="edgekit.core.steps:Round",
    summary="puts weights on the grid that will be stored, by calibration data (GPTQ, AdaRound)",
)

EQUALIZE = StepSpec(
    name="equalize",
    acts_on=ActsOn.MODULE,
    handler="edgekit.compress.quantization.equalize:equalize",
    settings="edgekit.core.steps:Equalize",
    summary="evens out the ranges of channels between layers; the outputs stay the same",
)

SMOOTH = StepSpec(
    name="smooth",
    acts_on=ActsOn.MODULE,
    handler="edgekit.compress.quantization.smooth:smooth",
    settings="edgekit.core.steps:Smooth",
    summary="moves outliers of activations into weights; the outputs stay the same (SmoothQuant)",
)

SPREAD = StepSpec(
    name="spread",
    acts_on=ActsOn.MODULE,
    handler="edgekit.compress.quantization.spread:spread",
    settings="edgekit.core.steps:Spread",
    summary="evens out the output channels of linear layers, with a multiplication behind them",
)

AWQ = StepSpec(
    name="awq",
    acts_on=ActsOn.MODULE,
    handler="edgekit.compress.quantization.awq:awq",
    settings="edgekit.core.steps:Awq",
    summary="scales weights up where inputs are large, and puts them on the grid (AWQ)",
)

ROTATE = StepSpec(
    name="rotate",
    acts_on=ActsOn.MODULE,
    handler="edgekit.compress.quantization.rotate:rotate",
    settings="edgekit.core.steps:Rotate",
    summary="mixes channels so that no few are large; the outputs stay the same (QuaRot)",
)
