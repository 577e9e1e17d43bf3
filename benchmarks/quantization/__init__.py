"""Quantization against the best existing tools, on the same models and data."""
