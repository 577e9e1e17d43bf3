"""Metrics of a model's outputs, and intervals of what compression changed in them.

``metrics`` resolves what a workload asks for, torchmetrics and callables among it; ``builtin``
holds the metrics known by name; ``paired`` holds two models against each other on
the same samples, ``worst`` takes the worst of several variants; ``intervals`` and ``quantiles``
are the statistics. Arrays in, figures out: this room reads no files and imports only ``core`` and
numpy.

To add a metric by name, write a function of per-sample scores in ``builtin`` and list it there.
"""
