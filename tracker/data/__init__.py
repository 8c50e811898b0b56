"""Data sets, crops and training pairs."""
