"""The rows of the op table, a module for each stem: how to draw an op's inputs, and its samples."""
