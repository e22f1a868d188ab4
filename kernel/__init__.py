"""The kernel: one process, one thread, which owns all state and decides everything.

Imports the system-call interface and the abstract parts of hw; only boot.py and children.py name
concrete parts.
"""
