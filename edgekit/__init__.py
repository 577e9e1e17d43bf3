"""edgekit: from a trained PyTorch model to a device bundle that is proven to fit."""

__version__ = "0.1.0"
