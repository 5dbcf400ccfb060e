"""Checks of what a sample is made of: images, texts, numbers, pairs."""
