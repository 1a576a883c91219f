"""The GPU kernels of ``plugins/kernels`` from Python: found, loaded, called, as torch's operator.

Nothing but numpy is imported, and torch by the files that name it.
"""
