"""Recipes, objectives, the one training loop, engines and checkpoints; knows nothing of evaluation."""
