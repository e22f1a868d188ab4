"""What suites share: kernels, fleets of agents, peers, reports."""
