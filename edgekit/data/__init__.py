"""Samples in any shape to named arrays on disk, checked."""
