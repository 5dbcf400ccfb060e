"""One file per objective; the table that names them stands in pretrain/recipe/objectives.py."""
