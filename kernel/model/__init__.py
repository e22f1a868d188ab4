"""Models: their requests, the core processes that compute them, and the calls on them."""
