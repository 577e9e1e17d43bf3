"""Metrics and paired intervals, on arrays."""
