"""Finds and strictly reads the TOML of device profiles and targets."""
