"""Measuring a bundle: bytes, per-node fidelity, image quality."""
