"""Handwritten digits, class-conditional, 16x16: the smallest real diffusion model of the project."""
