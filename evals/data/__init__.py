"""Data sets to measure on, their class names and prompts, and the table of benchmarks, tasks.yaml."""
