"""Hybrid search, shared by notes and files: full-text queries, vectors, and their fusion."""
