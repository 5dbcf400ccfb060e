"""Bytes of the next samples, read ahead of the trainer, each checked before it is used."""
