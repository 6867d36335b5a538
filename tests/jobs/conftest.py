"""A configuration over an empty local workspace, for the tests that need no more."""

from __future__ import annotations

from pathlib import Path

import pytest

from sonoloop.jobs.config import Config
from sonoloop.platform.workspace import Store


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    monkeypatch.setenv("SONOLOOP_CACHE_DIR", str(tmp_path / "cache"))
    (tmp_path / "workspace").mkdir()
    return Config(workspace=str(tmp_path / "workspace"), archive="a")


@pytest.fixture
def workspace(config: Config) -> Store:
    return config.open_workspace()
