"""Lines for machines carry ids and no record's text, here and in Ray's workers."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sonoloop.platform import logs
from sonoloop.platform.errors import ConfigError

logger = logging.getLogger("sonoloop.tests.logs")


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    for handler in before:
        if type(handler).__module__ == logs.__name__:  # of a command that another test has run
            root.removeHandler(handler)
    yield
    root.handlers[:] = before
    root.setLevel(level)
    logging.getLogger("sonoloop").setLevel(logging.NOTSET)
    logs.in_run(None)


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def test_a_line_for_machines_names_run_and_request(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SONOLOOP_LOG", "json")
    logs.set_up()
    logs.in_run("annotate-1")

    async def answer(name: str) -> None:
        with logs.in_request(name):
            await asyncio.to_thread(logger.info, "answered: %d tokens", 3)

    async def both() -> None:
        await asyncio.gather(answer("r-1"), answer("r-2"))

    asyncio.run(both())
    logger.warning("two\nlines")
    one, two, three = lines(capsys)
    assert {one["request_id"], two["request_id"]} == {"r-1", "r-2"}
    assert (one["message"], one["run_id"], one["level"]) == ("answered: 3 tokens", "annotate-1", "INFO")
    assert "request_id" not in three
    assert three["message"] == "two\nlines"


def fail() -> None:
    try:
        raise ValueError("John Doe, born 1950")
    except ValueError:
        logger.exception("a row failed")


def test_an_exception_is_told_by_kind_and_place_without_what_it_says(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SONOLOOP_LOG", "json")
    logs.set_up()
    fail()
    (line,) = lines(capsys)
    assert line["error"] == "ValueError"
    assert "test_logs.py" in line["frames"][0]
    assert "Doe" not in json.dumps(line)


def test_to_people_an_exception_says_no_more_than_to_machines(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SONOLOOP_LOG", "text")
    logging.getLogger().addHandler(logging.StreamHandler(io.StringIO()))  # writes first, with the whole text
    logs.set_up()
    fail()
    first, *frames, kind = capsys.readouterr().err.splitlines()
    assert first.endswith("ERROR sonoloop.tests.logs: a row failed")
    assert "test_logs.py" in frames[0]
    assert kind == "  ValueError"


def test_the_configuration_is_followed_unless_the_environment_says_otherwise(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("SONOLOOP_LOG", raising=False)
    logs.set_up()
    logger.warning("for people")
    assert "WARNING sonoloop.tests.logs: for people" in capsys.readouterr().err
    logs.follow(logs.LogConfig(format="json"))
    logger.info("for machines")
    assert lines(capsys)[0]["message"] == "for machines"
    monkeypatch.setenv("SONOLOOP_LOG", "text")
    logs.follow(logs.LogConfig(format="json"))
    assert not logs.is_json()
    monkeypatch.setenv("SONOLOOP_LOG", "xml")
    with pytest.raises(ConfigError, match="must be text or json, got 'xml'"):
        logs.set_up()


def test_a_program_that_set_up_no_logs_is_left_alone() -> None:
    before = list(logging.getLogger().handlers)
    logs.follow(logs.LogConfig(format="json"))
    assert logging.getLogger().handlers == before


DRIVER = """
import logging, os, sys
os.environ |= {"RAY_AUTH_MODE": "disabled", "SONOLOOP_LOG": "json"}
from sonoloop.platform import logs
from sonoloop.platform.cluster import RayConfig
logs.set_up()
import ray
from sonoloop.jobs.runs import ray_session

def work():
    logs.in_run("annotate-7")
    logging.getLogger("sonoloop.work").info("in a worker")
    return ray.get_runtime_context().get_worker_id()

with ray_session(RayConfig(num_cpus=3)):
    worker = ray.get(ray.remote(num_cpus=1)(work).remote())
    folder = ray._private.worker._global_node.get_logs_dir_path()
    print(next(p.read_text() for p in __import__("pathlib").Path(folder).glob(f"worker-{worker}*.err")))
"""


@pytest.mark.ray
def test_workers_of_a_run_log_for_machines_where_their_driver_does(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", DRIVER], capture_output=True, text=True, check=False, timeout=300, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert [(one["message"], one["run_id"]) for one in found] == [("in a worker", "annotate-7")]
