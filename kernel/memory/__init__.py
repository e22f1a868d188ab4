"""The memory manager: notes of agents, in RAM under quotas and in files."""
