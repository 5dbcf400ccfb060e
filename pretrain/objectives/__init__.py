"""One file per objective: what a step computes from a batch. `base` says what an objective must have.

The table that names them stands in `pretrain/recipe/objectives.py`.
"""
