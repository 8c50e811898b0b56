"""Shared by the tests: op table, samples, data sets, examples of the documentation."""
