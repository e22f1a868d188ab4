"""Measured settings: exactness, calibration, and the search for the fastest weights."""
