"""Archives on a real S3, and behind a proxy that fails."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from fault_proxy import Proxy, proxy_before

from sonoloop.platform.workspace import S3Config, Store

if TYPE_CHECKING:
    from conftest import S3Stack


@pytest.fixture
def s3_archive(stack_s3: S3Stack, monkeypatch: pytest.MonkeyPatch) -> Store:
    """An empty archive below a prefix of a bucket."""
    for name, value in stack_s3.env.items():
        monkeypatch.setenv(name, value)
    return Store(f"s3://{stack_s3.bucket()}/some/archive")


@dataclass(frozen=True)
class Failing:
    """The same archive directly and through the proxy."""

    direct: Store
    archive: Store
    proxy: Proxy


@pytest.fixture
def failing(stack_s3: S3Stack, s3_archive: Store) -> Iterator[Failing]:
    """An archive behind a proxy."""
    with proxy_before(stack_s3.endpoint) as proxy:
        yield Failing(s3_archive, Store(s3_archive.uri, S3Config(endpoint_url=proxy.endpoint)), proxy)
