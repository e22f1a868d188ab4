"""Checks, repair and backups of storage."""
