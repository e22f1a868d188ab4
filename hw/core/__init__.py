"""The core process: one model, its engine, and the requests it is working on."""
