"""Experiments of three papers. Each is one command that appends a row per run, and ends in tables and plots."""
