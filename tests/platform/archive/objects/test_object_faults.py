"""Faults of an S3 and of the way to it, made by a proxy before a real S3."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
from fault_proxy import Fault

from sonoloop.platform.archive.objects import faults
from sonoloop.platform.archive.objects.listing import parts_of
from sonoloop.platform.archive.objects.ranged import FIRST_BYTES
from sonoloop.platform.archive.objects.reader import ArchiveReader
from sonoloop.platform.archive.settings import IndexConfig
from sonoloop.platform.errors import Reason, RejectedError, StorageError
from sonoloop.platform.workspace import S3Config, Store

if TYPE_CHECKING:
    from conftest import Failing

DATA = bytes(range(256)) * 2048
TRIES = 4

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faults, "FIRST_PAUSE_S", 0.01)


@pytest.fixture
def read(failing: Failing) -> Callable[[], bytes]:
    """Reads the archive's one object through the proxy."""
    failing.direct.write_bytes(DATA, "a.dcm")
    reader = ArchiveReader(failing.archive, IndexConfig(tries=TRIES))
    (info,) = failing.direct.list_objects()
    return lambda: reader.open(info).read()


@pytest.mark.parametrize(
    "fault",
    [
        Fault(500, "InternalError"),
        Fault(503, "SlowDown"),
        Fault(503, "ServiceUnavailable"),
        Fault(429, "TooManyRequests"),
        Fault(400, "RequestTimeout"),
        Fault(cut_after=1000),
        Fault(cut_after=0),
    ],
    ids=str,
)
def test_what_fails_for_a_while_is_tried_again_and_what_fails_on_is_a_rejection_to_retry(
    failing: Failing, read: Callable[[], bytes], fault: Fault
) -> None:
    failing.proxy.fails = lambda _, times: fault if times < TRIES - 1 else None
    assert read() == DATA
    assert failing.proxy.asked.total() == TRIES
    failing.proxy.fails = lambda *_: fault
    with pytest.raises(RejectedError, match=f"in {TRIES} tries") as caught:
        read()
    assert (caught.value.reason, caught.value.retryable) == (Reason.STORAGE, True)
    assert failing.proxy.asked.total() == 2 * TRIES


def test_a_key_that_is_denied_is_a_rejection_at_once(failing: Failing, read: Callable[[], bytes]) -> None:
    failing.proxy.fails = lambda *_: Fault(403, "AccessDenied")
    with pytest.raises(RejectedError, match="denied") as caught:
        read()
    assert (caught.value.retryable, failing.proxy.asked.total()) == (True, 1)


@pytest.mark.parametrize(
    "fault",
    [Fault(400, "ExpiredToken"), Fault(403, "InvalidAccessKeyId"), Fault(403, "SignatureDoesNotMatch")],
    ids=str,
)
def test_keys_that_expired_stop_the_run_at_once(
    failing: Failing, read: Callable[[], bytes], fault: Fault
) -> None:
    failing.proxy.fails = lambda *_: fault
    with pytest.raises(StorageError, match="access refused"):
        read()
    assert failing.proxy.asked.total() == 1


def test_an_endpoint_that_takes_no_connection_stops_the_run(failing: Failing) -> None:
    failing.direct.write_bytes(DATA, "a.dcm")
    (info,) = failing.direct.list_objects()
    down = Store(failing.archive.uri, S3Config(endpoint_url="http://127.0.0.1:1"))
    with pytest.raises(StorageError, match="does not answer"):
        ArchiveReader(down, IndexConfig(tries=2)).open(info).read()


def test_an_object_deleted_after_it_was_listed_is_gone_for_good(
    failing: Failing, read: Callable[[], bytes]
) -> None:
    bucket, prefix = failing.direct.bucket_and_prefix
    failing.direct.client.delete_object(Bucket=bucket, Key=f"{prefix}/a.dcm")
    with pytest.raises(RejectedError, match="gone") as caught:
        read()
    assert not caught.value.retryable


def test_an_object_replaced_while_it_is_read_is_never_read_half_and_half(failing: Failing) -> None:
    failing.direct.write_bytes(DATA, "a.dcm")
    (info,) = failing.direct.list_objects()
    file = ArchiveReader(failing.archive, IndexConfig()).open(info)
    assert file.read(10) == DATA[:10]
    failing.direct.write_bytes(bytes(len(DATA)), "a.dcm")
    file.seek(4 * FIRST_BYTES)
    with pytest.raises(RejectedError, match="changed after it was listed") as caught:
        file.read(10)
    assert caught.value.retryable


def test_size_and_version_that_nobody_told_come_with_the_first_range(failing: Failing) -> None:
    for name, data in (("a.dcm", DATA), ("small", b"some bytes"), ("empty", b"")):
        failing.direct.write_bytes(data, name)
        (info,) = (i for i in failing.direct.list_objects() if i.uri.endswith(name))
        unknown = type(info)(info.uri, -1, "")
        file = ArchiveReader(failing.archive, IndexConfig()).open(unknown)
        assert file.read() == data
        assert file.info.size_bytes == len(data)
        if data:
            assert file.info == info
    limited = ArchiveReader(failing.archive, IndexConfig(max_object_bytes=100))
    with pytest.raises(RejectedError, match="max_object_bytes"):
        limited.open(type(info)(info.uri.replace("empty", "a.dcm"), -1, ""))


def test_pauses_grow_to_a_bound_and_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faults, "FIRST_PAUSE_S", 0.1)
    for num_failed in range(1, 40):
        pauses = {faults.pause_s(num_failed) for _ in range(20)}
        assert len(pauses) == 20
        assert max(pauses) <= min(faults.LONGEST_PAUSE_S, 0.1 * 2**num_failed)


def test_a_listing_survives_a_bad_moment_and_a_refused_one_stops_the_run(failing: Failing) -> None:
    failing.direct.write_bytes(b"1", "a")
    failing.proxy.fails = lambda _, times: Fault(503, "SlowDown") if times < 3 else None
    (part,) = parts_of(failing.archive)
    assert [len(page) for page in part.pages()] == [1]
    failing.proxy.fails = lambda *_: Fault(403, "AccessDenied")
    num_asked = failing.proxy.asked.total()
    with pytest.raises(StorageError, match="cannot be listed"):
        parts_of(failing.archive)
    assert failing.proxy.asked.total() == num_asked + 1
