"""Segmentation with frozen patches: in context (nearest neighbours of a memory), or by one linear layer."""
