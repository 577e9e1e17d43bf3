"""Manifest, evidence, sealing and verification."""
