"""Comparing matrices of planes."""

import numpy as np

from mpq_export.core.planes import PlaneMatrix


def same_matrix(a: PlaneMatrix, b: PlaneMatrix) -> None:
    """Assert that two matrices agree; steps may have spare columns of zeros."""
    width = max(a.steps.shape[1], b.steps.shape[1])
    padded = [np.pad(m.steps, ((0, 0), (0, width - m.steps.shape[1]))) for m in (a, b)]
    np.testing.assert_array_equal(*padded)
    for name in ("offset", "codes", "plane_count", "scale"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), name)
