"""The machine: shared memory, memory limits, the environment of processes."""
