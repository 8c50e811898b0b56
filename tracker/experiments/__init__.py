"""Experiments of the papers, each one command with a table and a plot."""
