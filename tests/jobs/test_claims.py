"""Claims, on a folder and on a real S3: one holder at a time, and a dead one is found out."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.conftest import S3Stack

from sonoloop.jobs import claims
from sonoloop.jobs.claims import Claim, HeldError, Holder, is_held, read_holder
from sonoloop.platform.errors import ConflictError, StorageError
from sonoloop.platform.workspace import S3Config, Store

PLACE = ("runs", "one", "claim.json")


@pytest.fixture(params=["folder", "s3"])
def workspace(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    if request.param == "folder":
        yield Store(str(tmp_path))
        return
    stack: S3Stack = request.getfixturevalue("stack_s3")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in stack.env.items():
            patch.setenv(name, value)
        yield Store(f"s3://{stack.bucket()}/here", S3Config(endpoint_url=stack.endpoint))


def stored(workspace: Store, holder: Holder) -> None:
    found = workspace.get_control(*PLACE)
    data = holder.model_dump_json().encode()
    workspace.put_control(data, *PLACE, version=None if found is None else found[1])


def test_of_many_takers_at_once_one_gets_the_claim(workspace: Store) -> None:
    gate = threading.Barrier(8)

    def take(_: int) -> bool:
        gate.wait()
        try:
            Claim(workspace, *PLACE)
        except HeldError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(take, range(8))) == 1


def test_a_claim_is_held_until_it_is_given_up_and_says_by_whom(workspace: Store) -> None:
    assert not is_held(workspace, *PLACE)
    with Claim(workspace, *PLACE):
        assert is_held(workspace, *PLACE)
        with pytest.raises(HeldError, match=f"runs/one is held by process {os.getpid()} on .*takes it over"):
            Claim(workspace, *PLACE)
    assert not is_held(workspace, *PLACE)
    with Claim(workspace, *PLACE):
        assert is_held(workspace, *PLACE)


def test_a_process_of_this_machine_that_is_gone_holds_nothing(workspace: Store) -> None:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    started = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()[19]
    stored(workspace, Holder.myself().model_copy(update={"pid": child.pid, "process": started}))
    assert is_held(workspace, *PLACE)
    child.kill()
    child.wait()
    with Claim(workspace, *PLACE):
        assert read_holder(workspace, *PLACE).pid == os.getpid()  # type: ignore[union-attr]


def test_the_number_of_a_dead_process_that_another_one_got_is_no_sign_of_life(workspace: Store) -> None:
    stored(workspace, Holder.myself().model_copy(update={"process": "1"}))
    assert not is_held(workspace, *PLACE)


def test_another_machine_is_believed_until_it_was_silent_for_long(
    workspace: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored(workspace, Holder.myself().model_copy(update={"machine": "far away", "host": "far", "pid": 1}))
    with pytest.raises(HeldError, match="process 1 on far"):
        Claim(workspace, *PLACE)
    monkeypatch.setattr(claims, "STALE_AFTER_S", 1.0)
    time.sleep(2.1)  # the clock of a store may count whole seconds
    with Claim(workspace, *PLACE):
        assert is_held(workspace, *PLACE)


def test_a_holder_writes_its_sign_of_life_and_is_interrupted_when_its_claim_was_taken(
    workspace: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "BEAT_EVERY_S", 0.2)
    taker = Holder.myself()
    with pytest.raises(ConflictError, match="taken over by another process"):
        lose_claim(workspace, taker)
    assert read_holder(workspace, *PLACE) == taker


def lose_claim(workspace: Store, taker: Holder) -> None:
    with Claim(workspace, *PLACE):
        first = workspace.written_at(*PLACE)
        deadline = time.monotonic() + 300
        while workspace.written_at(*PLACE) == first:
            assert time.monotonic() < deadline, "no sign of life"
            time.sleep(0.1)
        while read_holder(workspace, *PLACE) != taker:  # a beat may come between
            with contextlib.suppress(StorageError):
                stored(workspace, taker)
        time.sleep(300)  # far longer than it takes


def test_what_is_no_claim_is_not_taken_for_one(workspace: Store) -> None:
    workspace.write_bytes(b"{}", *PLACE)
    with pytest.raises(StorageError, match="no claim of this version"):
        Claim(workspace, *PLACE)
