"""What runs are doing: a table of all of them, the log of one."""
