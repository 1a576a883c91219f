"""mpq-export: diffusion models at 2-4 bits, from a checkpoint to a running edge model."""

__version__ = "0.1.0"
