"""The standard tools, a module for each category."""
