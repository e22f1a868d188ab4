"""The machine: shared memory, limits, threads, files, and the processes of the kernel."""
