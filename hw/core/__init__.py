"""The core process: one model, its engine, and the requests in progress."""
