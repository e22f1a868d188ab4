"""The agent scheduler: which requests run in the next slice, and what each account has used."""
