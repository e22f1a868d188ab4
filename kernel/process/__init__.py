"""Processes: the table of agents, their lives from spawn to burial, and who may connect."""
