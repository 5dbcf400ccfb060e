"""What the reading path costs, against what others use: the parts of `make bench-data` that need no training code."""
