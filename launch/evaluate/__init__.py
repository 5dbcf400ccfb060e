"""Measure models: after each checkpoint of a run, or any model from the command line; compare the reports."""
