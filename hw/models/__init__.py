"""Model files on the disk: their headers, their names, where they come from. No llama.cpp."""
