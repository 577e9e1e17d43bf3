"""What an artifact is and does, in its own runtime: each result a figure with its provenance.

``runner`` runs an artifact with boundary scaling; ``accuracy``, ``latency`` and ``memory`` hold the
stages (``handler(request, out, reporter)``), ``size`` and ``parity`` compare files and outputs,
``host`` describes the machine, ``audit`` holds an artifact against what was asked. No torch here.

To add a measurement, write a module that returns figures, and a handler if it needs a process of
its own.
"""
