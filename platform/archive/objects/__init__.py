"""The archive's objects: which there are, and their bytes, as few of them as a reader asks for."""
