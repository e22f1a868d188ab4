"""The trap: frames become calls, results and errors become replies."""
