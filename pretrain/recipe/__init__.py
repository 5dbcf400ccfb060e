"""Recipes: typed settings with their bounds, read from YAML and key=value overrides. Torch-free."""
