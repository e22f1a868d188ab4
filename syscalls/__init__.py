"""The system-call interface: what an agent and the kernel agree on.

Owns the table of calls, the request and reply types, the wire codec, the errors and the client.
Also holds the small mechanisms that both the kernel and the command line use. A leaf: it imports
nothing else of this project.
"""
