"""Pushing to a local Label Studio: tasks per second beside a naive import, checking, and memory.

1. ``sonoloop push`` of drafted cases (chosen, checked, sent, confirmed, put in the ledger) beside Label
   Studio's own client, ``import_tasks`` of the same tasks in calls of the same size, which checks nothing and
   remembers nothing. Both into fresh projects of one server, in turns.
2. The next push, which finds nothing changed; ``--reconcile``; and changes that go task by task.
3. Predictions checked per second against the page, beside ``LabelInterface.validate_prediction``.
4. Peak memory of what push holds while it looks at all drafts and chooses, simulated.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from label_studio_sdk.client import LabelStudio
from label_studio_sdk.label_interface import LabelInterface

from sonoloop.jobs.config import Config, PushConfig
from sonoloop.jobs.labelstudio import open_project
from sonoloop.jobs.push import run_push, run_reconcile
from sonoloop.jobs.pushing.choosing import choose
from sonoloop.jobs.pushing.drafted import DraftedCases
from sonoloop.jobs.pushing.ledger import Ledger
from sonoloop.jobs.pushing.showing import Showing
from sonoloop.jobs.pushing.survey import look
from sonoloop.model.prompts import PROMPT_VERSION
from sonoloop.platform import registry
from sonoloop.platform.labelstudio.config import LabelStudioConfig
from sonoloop.platform.labelstudio.page import build_page
from sonoloop.platform.labelstudio.predictions import prediction_of, task_data
from sonoloop.platform.labelstudio.upload import CaseUpload, TaskWriter
from sonoloop.platform.lexicon import (
    BY_ORGAN,
    ORGANS,
    Entities,
    LesionBox,
    entities_json,
    field_values,
    fields,
)
from sonoloop.platform.records import CaseImage, CaseRecord, DraftRecord, content_id
from sonoloop.platform.registry import Aliases
from sonoloop.platform.sorted_rooms import CASES, DRAFTS, write_sorted
from sonoloop.platform.stack import Component, StackConfig, environment, info, start, stop
from sonoloop.platform.tasks import project_key
from sonoloop.platform.workspace import Store

NAME = "echovlm-nano"
MODEL = f"{NAME}/1"
AT = datetime(2026, 1, 1, tzinfo=UTC)
ROWS_PER_FILE = 2000
BUDGET = 5000
FINDINGS = "An oval circumscribed mass with homogeneous echoes and posterior enhancement is seen. " * 8


def _entities(dice: random.Random) -> Entities:
    organ = dice.choice(ORGANS)
    model = BY_ORGAN[organ]
    lesion = dice.choice(("present", "absent"))
    values = {
        name: dice.choice(field_values(organ, name))
        for name in fields(organ)
        if lesion == "present" or name not in model.descriptors()
    }
    return model.model_validate({**values, "organ": organ, "lesion": lesion})


def drafted(number: int) -> tuple[CaseRecord, DraftRecord]:
    """A case of four images and its draft, as a model writes them; the same for the same number."""
    dice = random.Random(number)
    case_id, entities = content_id(str(number)), _entities(dice)
    images = tuple(
        CaseImage(
            image_key=f"images/{n:02d}/{content_id(case_id, str(n), length=64)}.png",
            instance_id=content_id(case_id, str(n)),
            frame_index=n,
            width=800,
            height=600,
        )
        for n in range(4)
    )
    case = CaseRecord(
        case_id=case_id,
        patient_key=content_id(case_id, "p"),
        organ_hint=entities.organ,
        scanner=f"Maker {number % 9}",
        images=images,
        indexed_at=AT,
    )
    draft = DraftRecord(
        case_id=case_id,
        run_id="r",
        model_version=MODEL,
        prompt_version=PROMPT_VERSION,
        config_hash="h",
        status="draft",
        findings=FINDINGS,
        impression=FINDINGS[:120],
        entities=entities_json(entities),
        boxes=(LesionBox(image_index=0, x=0.3, y=0.3, width=0.2, height=0.2),),
        confidence=dice.random(),
        value_probabilities={name: dice.random() for name in entities.flat()},
    )
    return case, draft


def fill(workspace: Store, num_cases: int) -> None:
    """A workspace with a champion's drafts, in files that are sorted by case."""
    numbers = sorted(range(num_cases), key=lambda number: content_id(str(number)))
    for start_at in range(0, num_cases, ROWS_PER_FILE):
        pairs = [drafted(number) for number in numbers[start_at : start_at + ROWS_PER_FILE]]
        write_sorted(workspace, CASES, [case for case, _ in pairs], "c", f"{start_at}.parquet")
        write_sorted(workspace, DRAFTS, [draft for _, draft in pairs], "d", f"{start_at}.parquet")
    workspace.write_bytes(b"a picture", "images", "ab", "c.png")
    registry.set_aliases(workspace, NAME, {"champion": MODEL}, expected=Aliases())


@contextmanager
def local_stack(database: str | None = None) -> Iterator[str]:
    """A fresh S3 and Label Studio on this database, stopped at the end; gives the address of Label Studio."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        try:
            parts = (Component.S3, Component.LABELSTUDIO)
            start(StackConfig(folder=folder, components=parts, labelstudio={"database": database}))
            os.environ.update(environment(folder))
            url = info(folder).labelstudio_url
            assert url is not None
            yield url
        finally:
            stop(folder)


def _seconds(work: Callable[[], Any]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def naive(url: str, title: str, tasks: list[dict[str, Any]], batch: int) -> float:
    """Label Studio's own client; returns seconds."""
    client = LabelStudio(base_url=url, api_key=os.environ["LABEL_STUDIO_API_KEY"], timeout=300)
    project = client.projects.create(title=title, label_config=build_page())

    def send() -> None:
        for start_at in range(0, len(tasks), batch):
            client.projects.import_tasks(id=project.id, request=tasks[start_at : start_at + batch])

    return _seconds(send)


def rates(url: str, num_cases: int, repeats: int) -> None:
    """Parts 1 and 2."""
    pairs = [drafted(number) for number in range(num_cases)]
    tasks = [
        {"data": task_data(case, "s3://sonoloop-workspace"), "predictions": [prediction_of(draft)]}
        for case, draft in pairs
    ]
    ratios = []
    for repeat in range(repeats):
        config = Config(
            workspace=f"s3://sonoloop-workspace/{repeat}",
            archive="s3://sonoloop-archive/none",
            labelstudio={"url": url, "project": f"Ours {repeat}"},
            push={"control_share": 0, "agreement_share": 0},
        )
        fill(config.open_workspace(), num_cases)
        ours_s = _seconds(lambda config=config: run_push(config))
        naive_s = naive(url, f"Naive {repeat}", tasks, config.labelstudio.import_batch)
        ratios.append(naive_s / ours_s)
        print(
            f"{num_cases} tasks with a prediction, calls of {config.labelstudio.import_batch}: "
            f"ours {num_cases / ours_s:.0f}/s, naive {num_cases / naive_s:.0f}/s",
            flush=True,
        )
    ratios.sort()
    print(f"ratio {ratios[0]:.2f} / {ratios[len(ratios) // 2]:.2f} / {ratios[-1]:.2f}")
    again(config, num_cases)


def again(config: Config, num_cases: int) -> None:
    """Part 2, on a project that holds all cases."""
    print(f"nothing changed: {num_cases / _seconds(lambda: run_push(config)):.0f} cases/s")
    print(f"--reconcile: {num_cases / _seconds(lambda: run_reconcile(config)):.0f} tasks/s")
    with open_project(config) as (door, project):
        some = list(door.all_tasks(project.id))[:200]
        readers_s = _seconds(lambda: [door.set_readers(task.id, 2) for task in some[:50]])
        moved = {task.id: CaseUpload({**task.data.shown(), "scanner": "another"}) for task in some}
        moved_s = _seconds(lambda: TaskWriter(door, project.id).refresh(moved))
    print(f"two readers, one by one: {50 / readers_s:.0f} tasks/s")
    print(f"tasks whose marks or scanner changed: {len(moved) / moved_s:.0f} tasks/s")


def checking(num_drafts: int = 2000) -> None:
    """Part 3."""
    drafts = [drafted(number)[1] for number in range(num_drafts)]
    made: list[Any] = []
    ours_s = _seconds(lambda: made.extend(prediction_of(draft) for draft in drafts))
    page = LabelInterface(build_page())
    each_s = _seconds(lambda: [page.validate_prediction(p, return_errors=True) for p in made])
    print(
        f"predictions made and checked: {num_drafts / ours_s:.0f}/s; validate_prediction alone: "
        f"{num_drafts / each_s:.0f}/s"
    )


def memory() -> None:
    """Part 4, each size in a process of its own."""
    for num_cases in (10_000, 200_000):
        with tempfile.TemporaryDirectory() as name:
            for step in ("fill_for_memory", "memory_of"):
                code = f"from benchmarks.pushing import {step}; {step}({num_cases}, {name!r})"
                subprocess.run([sys.executable, "-c", code], check=True)


def fill_for_memory(num_cases: int, folder: str) -> None:
    """The workspace of `memory_of`."""
    fill(Store(folder), num_cases)


def memory_of(num_cases: int, folder: str) -> None:
    """Look at all drafts, choose a budget, read it whole, and print the peak."""
    workspace = Store(folder)
    before = _peak_mib()
    begin = time.perf_counter()
    cases = DraftedCases(workspace, MODEL, PROMPT_VERSION)
    showing = Showing(PushConfig(), LabelStudioConfig(), None, workspace.uri, frozenset())
    ledger = Ledger.read(workspace, project_key("http://nowhere", 1))
    survey = look(cases, ledger, showing, {})
    chosen = choose(survey.candidates, showing.config.shares, BUDGET, survey.taken_groups)
    looked = time.perf_counter() - begin
    whole = cases.whole([survey.candidates.case_id(choice.index) for choice in chosen])
    print(
        f"{num_cases:,} drafts, budget {BUDGET}: peak {_peak_mib():.0f} MiB ({before:.0f} before), looked "
        f"and chose in {looked:.0f} s ({num_cases / looked:.0f} drafts/s), read {len(whole)} whole in "
        f"{time.perf_counter() - begin - looked:.0f} s",
        flush=True,
    )


def _peak_mib() -> float:
    """This process's own peak; ``ru_maxrss`` begins with that of the process that started it."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line)
    return int(line.split()[1]) / 1024


def main(arguments: Sequence[str] = ()) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks pushing")
    parser.add_argument("--repeats", type=int, default=3, help="of the import, each side in turn")
    parser.add_argument("--cases", type=int, default=3000, help="tasks of each import")
    parser.add_argument("--database", help="of Label Studio, as `sonoloop up` takes it; SQLite when absent")
    chosen = parser.parse_args(arguments)
    checking()
    with local_stack(chosen.database) as url:
        rates(url, chosen.cases, chosen.repeats)
    memory()
