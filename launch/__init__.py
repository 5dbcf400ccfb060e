"""Runs on this machine and on SLURM. The only package that imports all others; `cli` is where every command begins."""
