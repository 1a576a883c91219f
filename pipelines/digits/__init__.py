"""Handwritten digits, class-conditional, 16x16: the smallest real model of the project."""
