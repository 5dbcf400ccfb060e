"""What runs inside a batch job: the supervisor, one process per rank, the watchdog. Started by SLURM, not by people."""
