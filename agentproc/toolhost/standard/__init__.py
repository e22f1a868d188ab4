"""The standard tools."""
