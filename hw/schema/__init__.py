"""JSON schemas as llguidance enforces them: every keyword is enforced, or the schema is refused."""
