"""Sphinx builds the site: ``make docs``. Pages of reference are written from the code before each build."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from reference_pages import write_pages

project = "sonoloop"
author = "the sonoloop authors"
html_title = "sonoloop"
html_theme = "furo"
html_copy_source = False
html_show_copyright = False
html_show_sphinx = False
extensions = ["myst_parser"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]


def setup(app: Any) -> None:
    """Write the pages of reference before Sphinx looks for sources."""
    app.connect("builder-inited", lambda _: write_pages(Path(__file__).parent / "reference"))
