"""A finished run for readers: as data, Markdown, one HTML file, and the picture as SVG."""

from .writing import write_pages

__all__ = ["write_pages"]
