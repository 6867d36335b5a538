"""Batch files: requests in, answers out, joined by their ids."""
