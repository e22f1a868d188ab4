"""The embedder process: turns texts into embedding vectors."""
