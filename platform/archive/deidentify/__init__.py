"""Pixels leave the archive only de-identified: masks, text in the pixels, quarantine."""
