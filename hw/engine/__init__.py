"""Engines: what turns rows of tokens into logits, and what belongs to a model."""
