"""The files of a run directory that the launcher reads and writes: attempts, heartbeats, lease, job. Torch-free."""
