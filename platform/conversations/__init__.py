"""Conversations about images that people have already: their formats, their images, and what they become."""
