"""Training, as every step that trains shares it: one loop, its batches, checkpoints and losses."""
