"""Types, units, errors and the codec that everything speaks. Standard library only."""
