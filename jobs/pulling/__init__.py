"""What ``sonoloop pull`` is made of: what the workspace knows, what is gone, what is quarantined."""
