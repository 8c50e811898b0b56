"""Compiled measures on NumPy arrays. They need neither torch nor the kernel libraries."""

from fastops._host import polygon_overlap, threshold_curve

__all__ = ["polygon_overlap", "threshold_curve"]
