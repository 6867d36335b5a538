"""An empty local workspace with a cache of models of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from sonoloop.platform.workspace import Store


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("SONOLOOP_CACHE_DIR", str(tmp_path / "cache"))
    return Store(str(tmp_path / "workspace"))
