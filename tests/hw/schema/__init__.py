"""Tests of hw/schema."""
