"""The context manager: seats, images of parked sequences, shared prefixes, saved contexts."""
