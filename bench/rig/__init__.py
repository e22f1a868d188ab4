"""The rig of the suites: kernels, fleets of agents, peers, reports."""
