"""EchoVLM: configuration, modelling, checkpoints, prompts and the engine. Plain torch."""
