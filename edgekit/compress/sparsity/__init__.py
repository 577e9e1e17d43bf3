"""Unstructured pruning: single weights that become zero and stay zero."""
