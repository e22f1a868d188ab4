"""Search in files: the index of passages, and how it follows homes and mounted folders."""
