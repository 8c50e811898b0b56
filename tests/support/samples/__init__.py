"""The rows of the op table, a module for each op family: how to draw an op's inputs, and its samples."""
