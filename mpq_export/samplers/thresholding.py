"""Dynamic thresholding of denoised images (Imagen, arXiv 2205.11487, section 2.3)."""

from __future__ import annotations

import numpy as np

from .sampler import Array


def threshold(denoised: Array, ratio: float, largest: float) -> Array:
    """Clip each image ``[B, C, H, W]`` to its own quantile of magnitudes, 1 or more, and divide."""
    magnitudes = np.abs(denoised).reshape(len(denoised), -1)
    limit = np.clip(np.quantile(magnitudes, ratio, axis=1), 1, largest).astype(np.float32)
    limit = limit.reshape(-1, 1, 1, 1)
    return np.clip(denoised, -limit, limit) / limit
