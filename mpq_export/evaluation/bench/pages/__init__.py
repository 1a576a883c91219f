"""A finished run for readers: ``report.json``, ``report.md``, ``report.html``, ``pareto.svg``."""

from .writing import write_pages

__all__ = ["write_pages"]
