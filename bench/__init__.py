"""Benchmarks: seeded workloads, suites that compare arms in one run, and what they report."""
