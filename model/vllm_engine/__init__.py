"""Generation with vLLM, an extra with an environment of its own."""
