"""Pure functions from a model's facts, a profile and a target to a strategy with reasons.

``recipe`` chooses quantization settings; ``strategy`` decides which steps run and which are
skipped; ``support`` holds every operator against a target; ``estimate`` says, as estimates, what
would come out. Nothing here imports a framework, reads a file or measures.
"""
