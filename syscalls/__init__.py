"""The system-call interface: what an agent and the kernel agree on.

Owns the one table of calls, the request and reply types, the wire codec, the error tree and the
client stub, and what kernel and commands both need (``suggest``, ``exits``, ``inotify``). It is a
leaf: it imports nothing else of this project.
"""
