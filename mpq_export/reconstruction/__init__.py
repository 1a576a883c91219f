"""Post-training reconstruction: blocks of a model fitted to full precision on calibration data."""
