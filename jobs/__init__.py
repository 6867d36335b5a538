"""What a person submits: one verb, one module, one recipe."""
