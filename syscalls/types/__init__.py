"""Request and reply types of all calls, a module for each family of calls."""
