"""Results as values: metrics, averages, bootstrap draws, curves over training, where they come from."""
