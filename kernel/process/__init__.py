"""Processes: the table of agents, their life from spawn to burial, and who may connect."""
