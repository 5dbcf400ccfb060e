"""Triplets of images with human votes: tables, rows, prompts, and the batches made of them."""
