"""Sonoloop: drafts, corrections and better models for large ultrasound archives."""

__version__ = "0.1.0"
