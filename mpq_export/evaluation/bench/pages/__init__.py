"""A finished run for readers: as data, Markdown, one HTML file, and the picture as SVG."""

from .writing import page_files, write_pages

__all__ = ["page_files", "write_pages"]
