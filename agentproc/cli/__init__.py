"""The command line ``aios``."""
