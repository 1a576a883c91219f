"""Scripts for Polygraphy and trtexec, copied as they are beside a model for TensorRT.

They need numpy and what runs them, not this package; nothing of this package runs the copies.
"""
