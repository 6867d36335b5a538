"""Drafting: the Ray Data pipeline beside a plain loop over the same engine, and beside the engine alone.

All three draft the same phantoms with ``echovlm-nano`` and must write the same drafts. The engine alone has
its inputs in memory; the loop fetches, decodes and prepares between batches, as a script would; the pipeline
is ``sonoloop annotate`` with everything that it adds, start of its actors included.
"""

from __future__ import annotations

import os
import platform
import secrets
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

from sonoloop.jobs.annotate import run_annotate
from sonoloop.jobs.config import Config
from sonoloop.jobs.index import run_index
from sonoloop.jobs.init import run_init
from sonoloop.jobs.runs import ray_session
from sonoloop.model import nano
from sonoloop.model.engine import Draft, TransformersEngine
from sonoloop.model.frames import decode_frame
from sonoloop.model.processor import CaseInput, EchoVLMProcessor, PreparedCase, prepare
from sonoloop.platform.identity import KEY_VARIABLE
from sonoloop.platform.phantoms.archive import PhantomConfig, PhantomGroup, build_studies
from sonoloop.platform.records import CaseRecord
from sonoloop.platform.tables import read_cases, read_drafts
from sonoloop.platform.workspace import Store

T = TypeVar("T")
REPEATS = 3
NUM_CASES = 64
BATCH = 16


def main() -> None:
    """Measure and print one line per ratio: minimum, median, maximum over the repeats."""
    os.environ.setdefault(KEY_VARIABLE, secrets.token_hex(32))
    ratios: dict[str, list[float]] = {"pipeline / engine alone": [], "pipeline / plain loop": []}
    with TemporaryDirectory() as folder:
        config = _archive(Path(folder))
        with ray_session(config.ray):
            run_index(config)
            for repeat in range(REPEATS):
                alone, loop, pipeline = _measure(config, Path(folder), repeat)
                ratios["pipeline / engine alone"].append(alone / pipeline)
                ratios["pipeline / plain loop"].append(loop / pipeline)
                print(f"repeat {repeat}: engine {alone:.1f} s, loop {loop:.1f} s, pipeline {pipeline:.1f} s")
    print(
        f"{NUM_CASES} cases, batch {BATCH}, {os.cpu_count()} cores, {platform.machine()}; throughput ratios"
    )
    for name, values in ratios.items():
        print(f"{name}: min {min(values):.2f}, median {statistics.median(values):.2f}, max {max(values):.2f}")


def _archive(folder: Path) -> Config:
    """An archive of phantoms, a quarter of each organ, on local disk."""
    kinds = (("breast", "A"), ("thyroid", "A"), ("liver", "B"), ("kidney", "B"))
    groups = tuple(PhantomGroup(organ=o, scanner=s, count=NUM_CASES // 4) for o, s in kinds)
    archive = Store(str(folder / "archive"))
    for study in build_studies(PhantomConfig(seed=3, groups=groups)):
        for key, data in study.files:
            archive.write_bytes(data, key)
    (folder / "workspace").mkdir()
    return Config(
        workspace=str(folder / "workspace"), archive=archive.root, annotate={"cases_per_unit": BATCH}
    )


def _measure(config: Config, folder: Path, repeat: int) -> tuple[float, float, float]:
    """Seconds of engine alone, loop and pipeline; all three must agree on every draft."""
    workspace = config.open_workspace()
    cases = read_cases(workspace)
    engine = TransformersEngine(nano.folder(), config.annotate.engine)
    processor = EchoVLMProcessor.from_folder(nano.folder())
    prepared = [_prepared(workspace, processor, case) for case in cases]
    by_engine, alone = _timed(lambda: _drafts(engine, prepared))
    by_loop, loop = _timed(
        lambda: [
            draft
            for start in range(0, len(cases), BATCH)
            for draft in engine.draft(
                [_prepared(workspace, processor, case) for case in cases[start : start + BATCH]]
            )
        ]
    )
    fresh = _copy(config, folder / f"repeat-{repeat}")
    _, pipeline = _timed(lambda: run_annotate(fresh))
    written = {d.case_id: d.findings for d in read_drafts(fresh.open_workspace())}
    assert [d.findings for d in by_engine if isinstance(d, Draft)] == [
        d.findings for d in by_loop if isinstance(d, Draft)
    ]
    for case, draft in zip(cases, by_engine, strict=True):
        assert written[case.case_id] == (draft.findings if isinstance(draft, Draft) else None)
    return alone, loop, pipeline


def _copy(config: Config, folder: Path) -> Config:
    """The same cases and images in a workspace without drafts."""
    folder.mkdir()
    for room in ("cases", "images"):
        (folder / room).symlink_to(Path(config.workspace, room))
    fresh = config.model_copy(update={"workspace": str(folder)})
    run_init(fresh)
    return fresh


def _prepared(workspace: Store, processor: EchoVLMProcessor, case: CaseRecord) -> PreparedCase:
    images = tuple(decode_frame(workspace.read_bytes(image.image_key)) for image in case.images)
    return prepare(processor, CaseInput(case.case_id, images, case.organ_hint))


def _drafts(engine: TransformersEngine, prepared: list[PreparedCase]) -> list[object]:
    return [
        d for start in range(0, len(prepared), BATCH) for d in engine.draft(prepared[start : start + BATCH])
    ]


def _timed(work: Callable[[], T]) -> tuple[T, float]:
    begin = time.perf_counter()
    return work(), time.perf_counter() - begin
