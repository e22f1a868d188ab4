"""The database below storage: its schema, shared commits, and what damage costs."""
