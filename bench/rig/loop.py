"""An agent for benchmarks that computes without end."""

while True:
    pass
