"""Retrieval: what search in notes and search in files have in common."""
