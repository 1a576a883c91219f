"""The commands; each file says what its command accepts and prints, nothing else."""
