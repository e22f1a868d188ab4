"""The storage manager: durable files and values, with versions, shares, mounts and search."""
