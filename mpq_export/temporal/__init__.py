"""Temporal features of a model: what is computed ahead, and what is fitted (TFMQ-DM)."""
