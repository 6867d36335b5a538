"""Pulling from a local Label Studio: tasks per second and peak memory, and the report's views over many rows.

1. ``sonoloop pull`` of answered tasks with their drafts: the first pull, one that finds nothing new, one that
   finds a task deleted, and ``--full``; each in a process of its own, so that peak memory is its own.
2. The same rows many times over in a workspace, without a server: what a pull knows before it asks, and the
   views of `sonoloop.platform.tables` that it ends with.

The rate of a pull is the server's: beside it stands a plain listing of the same pages that keeps nothing.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import secrets
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from sonoloop.jobs.config import Config
from sonoloop.jobs.pull import run_pull
from sonoloop.jobs.pulling.known import Known
from sonoloop.platform.identity import KEY_VARIABLE
from sonoloop.platform.labelstudio.client import LabelStudioDoor
from sonoloop.platform.labelstudio.config import api_key
from sonoloop.platform.labelstudio.page import build_page
from sonoloop.platform.labelstudio.predictions import prediction_of
from sonoloop.platform.lexicon import BreastEntities, LesionBox, entities_json, field_values, fields
from sonoloop.platform.records import DraftRecord, ReviewRecord, content_id
from sonoloop.platform.stack import Component, StackConfig, environment, info, start, stop
from sonoloop.platform.tables import count_reviewed, disputed_ids
from sonoloop.platform.workspace import Store

FINDINGS = "An oval circumscribed mass with homogeneous echoes and posterior enhancement is seen. " * 8
AT = datetime(2026, 1, 1, tzinfo=UTC)
IMPORT_BATCH = 250


def draft(case_id: str) -> DraftRecord:
    """A draft of a breast with every field of a lesion filled."""
    values = {name: field_values("breast", name)[0] for name in fields("breast")}
    entities = BreastEntities.model_validate({**values, "lesion": "present"})
    return DraftRecord(
        case_id=case_id,
        run_id="r",
        model_version="m/1",
        prompt_version="p1",
        config_hash="h",
        status="draft",
        findings=FINDINGS,
        impression=FINDINGS[:120],
        entities=entities_json(entities),
        boxes=(LesionBox(image_index=0, x=0.3, y=0.3, width=0.2, height=0.2),),
        confidence=0.5,
    )


def fill(door: LabelStudioDoor, project_id: int, num_tasks: int) -> None:
    """Tasks with a draft and an answer each, as they are after people have worked."""
    path = f"/api/projects/{project_id}/import"
    for begin in range(0, num_tasks, IMPORT_BATCH):
        tasks = []
        for number in range(begin, min(begin + IMPORT_BATCH, num_tasks)):
            shown: Any = prediction_of(draft(f"case-{number}"))
            data = {"case_id": f"case-{number}", "images": ["s3://b/w/images/ab/c.png"] * 4}
            answered = {"result": [{**region, "origin": "prediction"} for region in shown["result"]]}
            tasks.append({"data": data, "predictions": [shown], "annotations": [answered]})
        door.connection.write("POST", path, tasks, timeout_s=300)


def peak_mib() -> float:
    """The most memory that this process ever had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def pulled(config: Config, full: bool) -> str:
    """One pull, and what it cost."""
    before, begin = peak_mib(), time.perf_counter()
    found = run_pull(config, full=full)
    seconds, num_seen = time.perf_counter() - begin, found.new_reviews + found.known_reviews
    return (
        f"{seconds:7.1f} s, {num_seen / seconds:6.0f} tasks/s, {found.new_reviews} new, {found.deleted} "
        f"deleted, peak {peak_mib():.0f} MiB ({before:.0f} before)"
    )


def listed(config: Config) -> str:
    """Every page of the project, read and thrown away."""
    with LabelStudioDoor(config.labelstudio, api_key()) as door:
        project = door.ensure_project(config.labelstudio.project, build_page())
        begin = time.perf_counter()
        num = sum(1 for _ in door.all_tasks(project.id))
        seconds = time.perf_counter() - begin
    return f"{seconds:7.1f} s, {num / seconds:6.0f} tasks/s"


def viewed(folder: str, num_rows: int) -> str:
    """The views at the end of a pull over many rows."""
    workspace, row = Store(folder), _review(0)
    for begin in range(0, num_rows, 2000):
        rows = [_numbered(row, number) for number in range(begin, min(begin + 2000, num_rows))]
        workspace.write_table(ReviewRecord.table(rows), "reviews", f"{begin:08d}.parquet")
    before, begin_s = peak_mib(), time.perf_counter()
    known = Known.read(workspace, "p")
    known_s = time.perf_counter() - begin_s
    num_cases, num_disputed = count_reviewed(workspace), len(disputed_ids(workspace))
    seconds = time.perf_counter() - begin_s
    return (
        f"{num_rows} rows: known after {known_s:.1f} s ({len(known.live)} stand), {num_cases} cases and "
        f"{num_disputed} disputed after {seconds:.1f} s, peak {peak_mib():.0f} MiB ({before:.0f} before)"
    )


def _review(number: int) -> ReviewRecord:
    one = draft(f"case-{number}")
    return ReviewRecord(
        review_id="",
        annotation_id=number,
        task_id=number,
        case_id=one.case_id,
        model_version="m/1",
        reader="r",
        findings=FINDINGS,
        impression=FINDINGS[:120],
        entities=one.entities,
        boxes=one.boxes,
        origins={"findings": "prediction", "impression": "prediction", "boxes": "prediction"},
        lead_time_s=20.0,
        created_at=AT,
        updated_at=AT,
        project="p",
    )


def _numbered(row: ReviewRecord, number: int) -> ReviewRecord:
    """Two readers for every tenth case."""
    case = number - 1 if number % 10 == 1 else number
    return row.model_copy(
        update={
            "review_id": content_id(str(number)),
            "annotation_id": number,
            "task_id": case,
            "case_id": content_id(str(case)),
            "reader": f"reader-{number % 3}",
            "updated_at": AT + timedelta(seconds=number),
        }
    )


def alone(function: Callable[..., str], *arguments: Any) -> str:
    """The function's answer, from a fresh process."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as pool:
        return pool.submit(function, *arguments).result()


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", type=int, default=5000)
    parser.add_argument("--rows", type=int, nargs="*", default=[10_000, 100_000])
    parser.add_argument("--repeats", type=int, default=1, help="ignored: each pull is another one")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="sonoloop-bench-") as folder:
        for num_rows in options.rows:
            print(alone(viewed, f"{folder}/{num_rows}", num_rows), flush=True)
        stack = StackConfig(folder=Path(folder, "stack"), components=(Component.LABELSTUDIO,))
        try:
            start(stack)
            _measure(Path(folder), stack.folder, options.tasks)
        finally:
            stop(stack.folder)


def _measure(folder: Path, stack: Path, num_tasks: int) -> None:
    os.environ.update(environment(stack), **{KEY_VARIABLE: secrets.token_hex()})
    for room in ("workspace", "archive"):
        (folder / room).mkdir()
    address = {"url": str(info(stack).labelstudio_url), "overlap_s": 0}
    places = {room: str(folder / room) for room in ("workspace", "archive")}
    config = Config.model_validate({**places, "labelstudio": address})
    with LabelStudioDoor(config.labelstudio, SecretStr(os.environ["LABEL_STUDIO_API_KEY"])) as door:
        project = door.ensure_project(config.labelstudio.project, build_page())
        fill(door, project.id, num_tasks)
        time.sleep(1.1)  # marks are whole seconds
        print("listing   ", alone(listed, config), flush=True)
        print("first     ", alone(pulled, config, False), flush=True)
        print("second    ", alone(pulled, config, False), flush=True)
        gone = next(door.all_tasks(project.id))
        door.connection.write("DELETE", f"/api/tasks/{gone.id}/")
        print("after loss", alone(pulled, config, False), flush=True)
        print("--full    ", alone(pulled, config, True), flush=True)


if __name__ == "__main__":
    main()
