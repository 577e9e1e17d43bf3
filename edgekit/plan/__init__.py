"""Pure functions from facts, profile and target to a strategy."""
