"""Triton kernels, one folder per op. A leaf of the import graph: imports nothing else of ours."""
