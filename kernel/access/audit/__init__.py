"""The audit log: a chained record of every decision."""
