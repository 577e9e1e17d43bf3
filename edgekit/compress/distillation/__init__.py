"""Distillation: what a student is, whom it follows, and what its loss is made of."""
