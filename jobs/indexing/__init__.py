"""The stages of ``sonoloop index``: headers into instances, frames into cases."""
