"""Fuzzing of the bundle reader and the packed-tensor code: ``make fuzz SECONDS=60``."""
