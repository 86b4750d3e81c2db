"""A real Slurm of several nodes on this machine: own host name, address and TCP stack a node."""
