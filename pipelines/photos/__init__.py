"""32x32 patches of ten photographs, in colour: a small model whose weights are not uniform."""
