"""What suites run on: kernels, fleets of agents, peers, reports."""
