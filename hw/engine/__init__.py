"""Engines, which compute logits from tokens, and everything that belongs to one model."""
