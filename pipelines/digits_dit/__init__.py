"""The digits again, drawn by a transformer: the smallest real DiT of the project."""
