"""Push through a network and a server that fail: nothing is lost, nothing doubles, the report is clear."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.fault_proxy import Fault, Proxy, proxy_before
from tests.jobs.pushable import MODEL, key, ledger, pushable, shown

from sonoloop.jobs.claims import Claim, HeldError
from sonoloop.jobs.config import Config
from sonoloop.jobs.labelstudio import open_project
from sonoloop.jobs.push import run_push, run_reconcile
from sonoloop.platform.errors import ServiceError
from sonoloop.platform.labelstudio import upload as upload_module

if TYPE_CHECKING:
    from tests.conftest import LabelStudioStack, S3Stack

pytestmark = pytest.mark.labelstudio
CASES = {f"case-{n:02d}": 0.5 + n / 100 for n in range(12)}
ALL_SHOWN = {case_id: [MODEL] for case_id in CASES}
LANDED_BUT_CUT = Fault(cut_after=0)


@pytest.fixture
def proxy(stack_labelstudio: LabelStudioStack, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    for name, value in stack_labelstudio.env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(upload_module, "_PAUSE_S", 0.05)
    with proxy_before(stack_labelstudio.url) as running:
        yield running


@pytest.fixture
def config(stack_s3: S3Stack, proxy: Proxy) -> Config:
    """Twelve cases in three batches, through the proxy."""
    return pushable(stack_s3.bucket(), stack_s3.endpoint, proxy.endpoint, CASES, import_batch=4, patience_s=5)


def _imports(proxy: Proxy, *faults: Fault | None) -> None:
    """Let the first imports fail like this."""
    proxy.fails = lambda key, times: (
        faults[times] if key.endswith("/import") and times < len(faults) else None
    )


def _agree(config: Config) -> None:
    """Every case has one task, and the ledger says so."""
    assert shown(config) == ALL_SHOWN
    rows = ledger(config)
    assert {case_id for case_id, row in rows.items() if row.state == "sent"} == set(CASES)
    found = run_reconcile(config)
    assert (found.server_tasks, found.ledger_tasks, found.tasks_now) == (12, 12, 12)
    assert (found.entered, found.doubles_removed, found.removed_by_people, found.corrected) == (0, 0, 0, 0)


@pytest.mark.parametrize(
    "faults",
    [
        (LANDED_BUT_CUT, None, LANDED_BUT_CUT, LANDED_BUT_CUT),
        (Fault(status=503), Fault(status=500), None, Fault(status=502)),
        (Fault(status=503), LANDED_BUT_CUT),
        (Fault(status=413), Fault(status=413)),
        (None, Fault(status=413), LANDED_BUT_CUT, Fault(status=413)),
        (None, Fault(status=429, retry_after_s=1), Fault(status=429)),
        (None, Fault(status=401)),
    ],
    ids=["no answer", "5xx", "5xx then no answer", "413", "413 and no answer", "429", "token expired"],
)
def test_a_push_gets_through_and_nothing_doubles(
    config: Config, proxy: Proxy, faults: tuple[Fault | None, ...]
) -> None:
    _imports(proxy, *faults)
    assert run_push(config).new_tasks == 12
    proxy.fails = lambda _key, _times: None
    _agree(config)


def test_a_case_that_is_too_large_alone_is_named(config: Config, proxy: Proxy) -> None:
    _imports(proxy, *[Fault(status=413)] * 9)
    with pytest.raises(ServiceError, match=r"case case-\d\d alone too large \(413\)"):
        run_push(config)


def test_a_server_that_stays_away_ends_the_push_and_the_next_one_finishes(
    config: Config, proxy: Proxy
) -> None:
    _imports(proxy, None, *[Fault(status=503)] * 9)
    with pytest.raises(ServiceError, match=r"did not take a batch .* run the same command again"):
        run_push(config)
    assert len(ledger(config)) == 4
    proxy.fails = lambda _key, _times: None
    assert run_push(config).new_tasks == 8
    _agree(config)


def test_a_key_that_is_revoked_in_the_middle_is_told_and_a_new_one_goes_on(
    config: Config, proxy: Proxy
) -> None:
    revoked = threading.Event()

    def fails(path: str, times: int) -> Fault | None:
        if path.endswith("/import") and times == 1:
            revoked.set()
        return Fault(status=401) if revoked.is_set() else None

    proxy.fails = fails
    with pytest.raises(ServiceError, match=r"refuses the key \(401\); make a personal access token"):
        run_push(config)
    proxy.fails = lambda _key, _times: None
    assert len(ledger(config)) == 4
    assert run_push(config).new_tasks == 8
    _agree(config)


def test_predictions_of_a_new_draft_are_sent_once_whatever_happens(config: Config, proxy: Proxy) -> None:
    run_push(config)
    for faults in ((LANDED_BUT_CUT, Fault(status=503)), (Fault(status=413),)):
        _forget_predictions(config)
        before = proxy.asked.copy()
        proxy.fails = lambda path, times, faults=faults, before=before: (  # type: ignore[misc]
            dict(enumerate(faults, before[path])).get(times) if path.endswith("/import/predictions") else None
        )
        assert run_push(config).new_predictions == 12
        proxy.fails = lambda _key, _times: None
        _agree(config)


def _forget_predictions(config: Config) -> None:
    """As if the tasks had been made before the drafts."""
    with open_project(config) as (door, project):
        for task in door.all_tasks(project.id):
            door.connection.write("DELETE", f"/api/predictions/{task.predictions[0].id}/")
    assert run_reconcile(config).corrected == 12


def test_a_page_without_one_of_our_controls_is_refused_by_name_before_anything_is_sent(
    config: Config, proxy: Proxy
) -> None:
    with open_project(config) as (door, project):
        edited = project.label_config.replace('name="liver_parenchyma"', 'name="parenchyma"')
        door.connection.write("PATCH", f"/api/projects/{project.id}/", {"label_config": edited})
    with pytest.raises(ServiceError, match="liver_parenchyma is missing or renamed"):
        run_push(config)
    assert not any(path.endswith("/import") for path in proxy.asked)


def test_of_two_pushers_the_second_is_told_who_works(config: Config) -> None:
    with (
        Claim(config.open_workspace(), "tasks", key(config), "push.json"),
        pytest.raises(HeldError, match=rf"held by process {os.getpid()} on "),
    ):
        run_push(config)
    assert run_push(config).new_tasks == 12


def test_a_push_killed_while_the_server_takes_a_batch_is_finished_by_the_next(
    config: Config, proxy: Proxy, tmp_path: Path
) -> None:
    sending = threading.Event()

    def fails(path: str, times: int) -> Fault | None:
        if path.endswith("/import") and times == 1:
            sending.set()
            return Fault(pause_s=2)  # the batch lands after its sender is gone
        return None

    proxy.fails = fails
    (tmp_path / "config.json").write_text(config.model_dump_json())
    program = (
        "import sys; from sonoloop.jobs.config import Config; from sonoloop.jobs.push import run_push; "
        "run_push(Config.model_validate_json(open(sys.argv[1]).read()))"
    )
    pusher = subprocess.Popen([sys.executable, "-c", program, str(tmp_path / "config.json")])
    try:
        assert sending.wait(300)
        os.kill(pusher.pid, signal.SIGKILL)
    finally:
        pusher.kill()
        pusher.wait()
    assert len(ledger(config)) == 4
    _wait_for(lambda: list(shown(config).values()) == [[MODEL]] * 8)
    assert run_push(config).new_tasks == 4
    _agree(config)


def _wait_for(true: object, timeout_s: float = 120) -> None:
    assert callable(true)
    end = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < end
        time.sleep(0.3)
