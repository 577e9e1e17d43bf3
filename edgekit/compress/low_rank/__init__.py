"""Low rank: layers as products of thinner ones, and adapters."""
