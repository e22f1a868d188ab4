"""Boot of agents: the zygote that forks them, and what a child does before its program runs."""
