"""The event loop: the kernel's one thread, its timers, and the threads that block for it."""
