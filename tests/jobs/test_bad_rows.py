"""Cases that kill, hang or exhaust the process that works on them: one rejection each, the others drafted."""

from __future__ import annotations

import ctypes
import gc
import io
import os
import signal
import sys
import zlib
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from ray import cloudpickle

from sonoloop.jobs.annotate import run_annotate
from sonoloop.jobs.annotating import preparing
from sonoloop.jobs.annotating.context import RunContext
from sonoloop.jobs.annotating.drafter import Drafter
from sonoloop.jobs.annotating.pipeline import Stages
from sonoloop.jobs.annotating.preparing import Preparer
from sonoloop.jobs.annotating.selection import Selection
from sonoloop.jobs.config import Config
from sonoloop.model import nano
from sonoloop.model.frames import Rgb, decode_frame
from sonoloop.model.prepared import PreparedCase
from sonoloop.platform import registry
from sonoloop.platform.errors import TooManyRejectionsError
from sonoloop.platform.phantoms.case import draw_case
from sonoloop.platform.phantoms.render import render
from sonoloop.platform.records import CaseImage, CaseRecord, DraftRecord
from sonoloop.platform.sorted_rooms import CASES, write_sorted
from sonoloop.platform.tables import read_drafts
from sonoloop.platform.workspace import Store

pytestmark = pytest.mark.ray

HEALTHY = tuple(f"{number}-{name}" for number in range(4) for name in ("first", "last"))
POISONS = ("0-kills-its-preparer", "1-kills-its-model", "2-needs-memory", "3-never-ends")
HANGING = "0-hangs"
NUM_IMAGES_OF_THE_HUNGRY = 3
NUM_PICTURES = 8
POISON = b"poison"


class FragilePreparer(Preparer):
    """Its decoder dies of one picture."""

    def __init__(self, run: RunContext) -> None:
        super().__init__(run)
        preparing.decode_frame = _decode_or_die


def _decode_or_die(data: bytes) -> Rgb:
    if data.endswith(POISON):
        ctypes.string_at(0)  # a true fault: a signal may reach another thread while this one goes on
    return decode_frame(data)


class FragileDrafter(Drafter):
    """Dies of the second poison, lacks memory for the third, never ends the last; or hangs in native code."""

    def __init__(self, run: RunContext) -> None:
        super().__init__(run)
        self._engine = FragileEngine(self._engine)


class FragileEngine:
    """The engine with its faults."""

    def __init__(self, engine: Any) -> None:
        self._engine, self._write = engine, engine._request
        runner = engine.backend._runner
        self._embed = runner.embed_prompt
        runner.embed_prompt, engine._request = self._hungry, self._endless

    def draft(self, batch: Sequence[PreparedCase]) -> list[Any]:
        """As the engine's."""
        for case in batch:
            if case.case_id == POISONS[1]:
                os.kill(os.getpid(), signal.SIGKILL)
            if case.case_id == HANGING:
                ctypes.PyDLL(None).sleep(600)  # holds Python's lock: no thread of the process can help
        drafted: list[Any] = self._engine.draft(batch)
        return drafted

    def _hungry(self, prompt: Any) -> Any:
        if len(prompt.image_grid_thw) == NUM_IMAGES_OF_THE_HUNGRY:
            raise torch.OutOfMemoryError
        return self._embed(prompt)

    def _endless(self, case: PreparedCase) -> Any:
        request = self._write(case)
        if case.case_id != POISONS[3]:
            return request
        report, entities = request.turns  # what runs into its limit is what never ends
        return replace(request, turns=(replace(report, max_new_tokens=8), entities))


class EmptyHandedPreparer(Preparer):
    """Lacks memory for every picture."""

    def __init__(self, run: RunContext) -> None:
        super().__init__(run)
        preparing.decode_frame = _decode_nothing


def _decode_nothing(data: bytes) -> Rgb:
    raise MemoryError(len(data))


cloudpickle.register_pickle_by_value(sys.modules[__name__])  # Ray's workers cannot import a test
FRAGILE = Stages(prepare=FragilePreparer, draft=FragileDrafter)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, ray_cluster: str) -> dict[str, DraftRecord]:
    """The drafts of the healthy cases alone, in the same units."""
    config = workspace_of(tmp_path_factory.mktemp("healthy"), HEALTHY, cases_per_unit=2)
    run_annotate(config)
    return drafts_of(config)


@pytest.fixture(scope="module")
def poisoned(tmp_path_factory: pytest.TempPathFactory, ray_cluster: str) -> Config:
    """A workspace that was drafted with a poison in every unit."""
    config = workspace_of(tmp_path_factory.mktemp("poisoned"), sorted((*HEALTHY, *POISONS)), cases_per_unit=3)
    summary = run_annotate(config, stages=FRAGILE)
    rejected = {name: outcome(row) for name, row in drafts_of(config).items() if row.status == "rejected"}
    assert set(rejected) == set(POISONS), rejected
    assert (summary.cases, summary.drafted, summary.rejected) == (12, 8, 4)
    return config


def test_each_bad_case_is_one_rejection_that_says_where_why_and_after_how_many_tries(
    poisoned: Config,
) -> None:
    rows = drafts_of(poisoned)
    assert {name: outcome(rows[name]) for name in POISONS} == {
        "0-kills-its-preparer": ("prepare", "crashed", 3, True),  # once with its unit, twice alone
        "1-kills-its-model": ("draft", "crashed", 4, True),  # twice with its unit, twice alone
        "2-needs-memory": ("draft", "model-failed", 1, True),
        "3-never-ends": ("draft", "invalid-output", 1, False),
    }
    assert rows[POISONS[1]].detail == "alone, the case ended its process; tries alone: 2"
    assert [rows[name].unit for name in POISONS] == [0, 1, 2, 3]


def test_the_cases_around_it_are_drafted_as_if_it_were_not_there(
    poisoned: Config, undisturbed: dict[str, DraftRecord]
) -> None:
    rows = drafts_of(poisoned)
    for name in HEALTHY[:4]:
        assert written(rows[name]) == written(undisturbed[name])
    for name in HEALTHY[4:]:  # drafted in halves, or beside the poison: the last bits differ
        assert rows[name].findings == undisturbed[name].findings
        assert rows[name].entities == undisturbed[name].entities


def test_the_crashed_are_tried_again_by_name_and_their_attempts_count_on(poisoned: Config) -> None:
    before = drafts_of(poisoned)
    summary = run_annotate(poisoned, Selection(retry_rejected=True, reasons=("crashed",)))
    assert (summary.cases, summary.drafted) == (2, 2)
    rows = drafts_of(poisoned)
    assert {name for name in rows if rows[name].run_id != before[name].run_id} == set(POISONS[:2])
    assert [(rows[name].status, rows[name].attempts) for name in POISONS[:2]] == [("draft", 4), ("draft", 5)]


def test_a_case_that_hangs_in_native_code_is_given_up(tmp_path: Path, ray_cluster: str) -> None:
    limits = {"case_timeout_s": 8, "storage_patience_s": 1, "max_attempts": 1}
    config = workspace_of(tmp_path, ("0-first", HANGING), cases_per_unit=1, **limits)
    run_annotate(config, stages=FRAGILE)
    rows = drafts_of(config)
    assert outcome(rows[HANGING]) == ("draft", "timed-out", 1, True)
    assert rows[HANGING].detail == "alone, the case took longer than 8 s; tries alone: 1"
    assert rows["0-first"].status == "draft"


def test_a_run_that_rejects_too_much_stops_early_and_the_same_command_goes_on(
    tmp_path: Path, ray_cluster: str
) -> None:
    cases = [f"{number:02}" for number in range(6)]
    config = workspace_of(tmp_path, cases, cases_per_unit=1, min_cases_before_stop=3)
    told = why_it_stopped(config, Stages(prepare=EmptyHandedPreparer))
    assert "3 of 3 cases were rejected" in told
    assert "most often: unreadable (3)" in told
    assert "`sonoloop annotate --retry-rejected --reason unreadable`" in told
    before = drafts_of(config)
    assert len(before) <= 3

    summary = run_annotate(config)
    assert (summary.resumed, summary.cases) == (True, 6)
    assert summary.rejected == len(before)
    assert len(drafts_of(config)) == 6


def why_it_stopped(config: Config, stages: Stages) -> str:
    """The message alone: while an error lives, its frames keep the actors of the pipeline that failed."""
    with pytest.raises(TooManyRejectionsError) as told:
        run_annotate(config, stages=stages)
    message = str(told.value)
    del told
    gc.collect()
    return message


def workspace_of(folder: Path, case_ids: Sequence[str], **settings: Any) -> Config:
    """A workspace with these cases and a champion; the hungry case has more images than the others."""
    store = Store(str(folder))
    for number in range(NUM_PICTURES):
        store.write_bytes(_picture(number), f"images/{number}.png")
    store.write_bytes(_picture(NUM_PICTURES) + POISON, "images/poison.png")
    write_sorted(store, CASES, [_case(case_id) for case_id in case_ids], "cases.parquet")
    version = registry.publish(store, nano.folder(), "echovlm-nano", lineage={})
    registry.set_aliases(store, "echovlm-nano", {"champion": version}, expected=registry.Aliases())
    return Config(workspace=str(folder), archive=str(folder.parent / "archive"), annotate=settings)


def _picture(number: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(render(draw_case(5, number, "thyroid", "A")).pixels).save(stream, "PNG")
    return stream.getvalue()


def _case(case_id: str) -> CaseRecord:
    picture = "poison" if case_id == POISONS[0] else zlib.crc32(case_id.encode()) % NUM_PICTURES
    image = CaseImage(
        image_key=f"images/{picture}.png", instance_id="i", frame_index=0, width=448, height=336
    )
    return CaseRecord(
        case_id=case_id,
        patient_key="p",
        organ_hint="thyroid",
        scanner=None,
        images=(image,) * (NUM_IMAGES_OF_THE_HUNGRY if case_id == POISONS[2] else 1),
        indexed_at=datetime(2025, 1, 1, tzinfo=UTC),
    )


def drafts_of(config: Config) -> dict[str, DraftRecord]:
    """The row of each case."""
    return {row.case_id: row for row in read_drafts(config.open_workspace())}


def outcome(row: DraftRecord) -> tuple[Any, ...]:
    """What a rejection says."""
    return row.stage, row.reason, row.attempts, row.retryable


def written(row: DraftRecord) -> dict[str, Any]:
    """All of a row but the run that wrote it."""
    return row.model_dump(exclude={"run_id"})
