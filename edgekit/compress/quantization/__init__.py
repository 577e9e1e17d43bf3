"""Weights put on the grid of integers that an artifact will store, before it is exported."""
