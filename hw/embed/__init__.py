"""The embedder process: texts to vectors of their meaning."""
