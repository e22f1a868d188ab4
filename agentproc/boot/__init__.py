"""Boot of agents: the zygote that forks them, and the steps of a child before its program runs.

It runs in the agent's environment, so it imports only the client.
"""
