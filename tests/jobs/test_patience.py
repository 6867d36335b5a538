"""A store that is away is waited for; one that stays away is named, and a refusal is not waited for."""

from __future__ import annotations

import time
from unittest.mock import Mock

import pytest
from fault_proxy import Fault, proxy_before
from tests.conftest import S3Stack

from sonoloop.jobs.annotating.patience import Patience, through_outages
from sonoloop.platform.errors import StorageError, UnreachableError
from sonoloop.platform.workspace import S3Config, Store

BUSY = Fault(503, "SlowDown")


@pytest.fixture
def there(stack_s3: S3Stack, monkeypatch: pytest.MonkeyPatch) -> str:
    for name, value in stack_s3.env.items():
        monkeypatch.setenv(name, value)
    return f"s3://{stack_s3.bucket()}/workspace"


def test_a_busy_s3_is_asked_again_until_it_answers(stack_s3: S3Stack, there: str) -> None:
    Store(there, S3Config(endpoint_url=stack_s3.endpoint)).write_bytes(b"frame", "image")
    with proxy_before(stack_s3.endpoint) as proxy:
        over = time.monotonic() + 2
        proxy.fails = lambda _key, _times: BUSY if time.monotonic() < over else None
        store = Store(there, S3Config(endpoint_url=proxy.endpoint))
        assert Patience(30)(store.read_bytes, "image") == b"frame"


def test_an_s3_that_stays_away_is_waited_for_once_and_not_for_every_object(there: str) -> None:
    store = Store(there, S3Config(endpoint_url="http://127.0.0.1:9"))
    patiently = Patience(1)
    exists = Mock(wraps=store.exists)
    with pytest.raises(UnreachableError, match="does not answer"):
        patiently(exists, "image")
    num_asked = exists.call_count
    assert num_asked > 1
    with pytest.raises(UnreachableError):
        patiently(exists, "image")
    assert exists.call_count == num_asked + 1
    assert patiently(lambda: "it answers") == "it answers"


def test_a_refusal_is_not_waited_for(stack_s3: S3Stack, there: str) -> None:
    store = Store(f"{there.rpartition('/')[0]}-of-nobody/x", S3Config(endpoint_url=stack_s3.endpoint))
    check = Mock(wraps=store.check)
    with pytest.raises(StorageError, match="no such bucket"):
        Patience(60)(check)
    assert check.call_count == 1


def test_long_work_goes_on_after_an_outage_of_what_ray_data_reads_by_itself(
    stack_s3: S3Stack, there: str
) -> None:
    store = Store(there, S3Config(endpoint_url=stack_s3.endpoint))
    attempts = []

    def work() -> str:
        attempts.append(1)
        if len(attempts) == 1:
            raise OSError("When reading: AWS Error SLOW_DOWN during GetObject operation: slow down")
        return "done"

    assert through_outages(store, 10, work) == "done"
