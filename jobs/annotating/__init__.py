"""Stages of ``sonoloop annotate``: choose cases, cut them into units, draft on Ray Data, close the run."""
