"""Structured pruning: what depends on what, what matters least, and cutting it out."""
