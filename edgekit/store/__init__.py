"""Content-addressed stage results, locks and atomic writes."""
