"""``echovlm-nano``: EchoVLM at 4.7 million parameters, trained from scratch on phantoms; for demos and tests.

The weights lie beside this file; ``README.md`` among them is the model card. Not for clinical use.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path


def folder() -> Path:
    """The model folder: published layout, tokenizer, preprocessor configuration, model card."""
    return Path(str(files(__name__))) / "weights"
