"""Compiled measures on NumPy arrays; they need neither torch nor the kernel libraries."""

from fastops._host import polygon_overlap, threshold_curve

__all__ = ["polygon_overlap", "threshold_curve"]
