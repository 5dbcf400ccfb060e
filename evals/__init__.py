"""Measures any encoder, ours or anyone's; knows nothing of training."""
