"""Memory, speed, hours and cost of a run from formulas, before it is submitted. Torch-free."""
