"""The hardware layer: models, devices, shared memory, and the core that runs them.

Knows nothing of agents or system calls, and imports no sibling package.
"""
