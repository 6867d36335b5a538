"""The sides of the benchmark of drafting, each in processes of its own, all on the same cases.

Every side tells when each batch of cases was done, and what was written. Times are of one clock, the
machine's; a steady rate leaves out the starts, which are in the whole seconds.
"""

from __future__ import annotations

import json
import logging
import multiprocessing
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Barrier

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import ray
import torch
from ray.data import ActorPoolStrategy, DataContext

from benchmarks.drafting_work import Layout
from sonoloop.jobs.annotating.units import in_batches
from sonoloop.jobs.config import Config
from sonoloop.model.draft import Draft
from sonoloop.model.engine import TransformersEngine
from sonoloop.model.frames import decode_frame
from sonoloop.model.prepared import CaseInput, PreparedCase, prepare
from sonoloop.platform import registry
from sonoloop.platform.errors import RejectedError
from sonoloop.platform.records import CaseRecord
from sonoloop.platform.tables import read_cases, read_drafts
from sonoloop.platform.workspace import Store

POLL_S = 0.05
"""Of a unit that takes a second or more; polled ten times as often, a twelfth of a core went to it."""
Written = dict[str, tuple[str | None, str | None]]
"""Case -> findings, or why there are none."""
_NAIVE = pa.schema(
    [("case_id", pa.string()), ("findings", pa.string()), ("detail", pa.string()), ("end", pa.float64())]
)
_barrier: Barrier
"""Where the engines of a process pool wait for each other; set in its processes."""


@dataclass(frozen=True)
class Measured:
    """What a side did.

    Attributes:
        whole_s: From the start of its processes to their end.
        ends: When each batch was done, seconds of the machine's clock, in order.
        written: What it wrote.
    """

    whole_s: float
    ends: tuple[float, ...]
    written: Written

    def rate(self, cases_per_batch: int, engines: int) -> float:
        """Cases per second once every engine is at work: the slope of batches over time.

        The first batch of each engine, and the last ones when some engines have nothing left, are left out.
        """
        ends = self.ends[engines - 1 : len(self.ends) - engines + 1]
        seconds_per_batch, _ = np.polyfit(np.arange(len(ends)), np.array(ends) - ends[0], 1)
        return float(cases_per_batch / seconds_per_batch)


def engine_alone(config: Config, layout: Layout) -> Measured:
    """Engines whose inputs are in memory, units dealt out in turn."""
    context = multiprocessing.get_context("spawn")
    begin = time.monotonic()
    barrier = context.Barrier(layout.engines)
    with ProcessPoolExecutor(
        layout.engines, mp_context=context, initializer=_meet_at, initargs=(barrier,)
    ) as pool:
        shares = [pool.submit(_draft_from_memory, config, layout, number) for number in range(layout.engines)]
        parts = [share.result() for share in shares]
    ends = sorted(end for part, _ in parts for end in part)
    written = {case_id: text for _, part in parts for case_id, text in part.items()}
    return Measured(time.monotonic() - begin, tuple(ends), written)


def plain_loop(config: Config) -> Measured:
    """What a script would be: fetch, decode, prepare and draft a batch, append it to a file, go on."""
    context = multiprocessing.get_context("spawn")
    begin = time.monotonic()
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        ends, written = pool.submit(_loop, config).result()
    return Measured(time.monotonic() - begin, ends, written)


def naive_ray(config: Config, layout: Layout) -> Measured:
    """``map_batches`` that does all in the model actor: no units, no checkpoint."""
    context = multiprocessing.get_context("spawn")
    begin = time.monotonic()
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        ends, written = pool.submit(_naive, config, layout).result()
    return Measured(time.monotonic() - begin, ends, written)


def pipeline(folder: Path, *, kill_after: int | None = None) -> Measured:
    """``sonoloop annotate``, whole, from the command line.

    Args:
        folder: Holds ``sonoloop.toml`` and the workspace.
        kill_after: Kill it, with all its processes, when so many units are durable.

    Raises:
        RuntimeError: it failed.
    """
    workspace = Path(folder, "workspace")
    begin = time.monotonic()
    process = psutil.Popen(
        [sys.executable, "-m", "sonoloop.jobs.cli", "annotate", "--config", str(folder / "sonoloop.toml")],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    seen = {path.name: begin for path in _unit_files(workspace)}
    ends = []
    while process.poll() is None:
        for path in _unit_files(workspace):
            if path.name not in seen:
                seen[path.name] = time.monotonic()
                ends.append(seen[path.name])
        if kill_after is not None and len(seen) >= kill_after:
            _kill(process)
        time.sleep(POLL_S)
    whole_s = time.monotonic() - begin
    if kill_after is None and process.returncode:
        raise RuntimeError(f"annotate ended with {process.returncode}: {process.stderr.read().decode()}")
    rows = read_drafts(Store(str(workspace))) if kill_after is None else []
    written = {row.case_id: (row.findings, row.detail) for row in rows}
    return Measured(whole_s, tuple(ends), written)


def durable_rows(folder: Path) -> list[str]:
    """The case of every row in the workspace, as often as it is there."""
    rooms = [str(path) for path in Path(folder, "workspace", "drafts").rglob("*.parquet")]
    return [case_id for room in rooms for case_id in pq.read_table(room, columns=["case_id"])[0].to_pylist()]


def _unit_files(workspace: Path) -> Iterator[Path]:
    """What the pipeline has written so far; at its end, few sorted files take their place."""
    return (path for path in workspace.glob("drafts/*/*.parquet") if not path.name.startswith("sorted-"))


def _kill(process: psutil.Popen) -> None:
    """The driver and every process of its Ray at once."""
    for one in (process, *process.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):
            one.kill()
    process.wait()


def _meet_at(barrier: Barrier) -> None:
    global _barrier
    _barrier = barrier


def _draft_from_memory(config: Config, layout: Layout, number: int) -> tuple[list[float], Written]:
    """One engine's share: every so many-th unit, all prepared before the clock starts."""
    torch.set_num_threads(layout.threads)
    engine, cases = _engine(config), read_cases(config.open_workspace())
    units = list(in_batches(cases, config.annotate.cases_per_unit))
    prepared = [
        [_prepared(config, engine, case) for case in unit] for unit in units[number :: layout.engines]
    ]
    engine.draft(prepared[0][:1])
    _barrier.wait()
    ends: list[float] = []
    written: Written = {}
    for unit in prepared:
        written |= _texts(unit, engine.draft(unit))
        ends.append(time.monotonic())
    return ends, written


def _loop(config: Config) -> tuple[tuple[float, ...], Written]:
    workspace = config.open_workspace()
    engine = _engine(config)
    ends: list[float] = []
    written: Written = {}
    with Path(workspace.root, "loop.jsonl").open("w") as out:
        for unit in in_batches(read_cases(workspace), config.annotate.cases_per_unit):
            made = _texts(unit, engine.draft([_prepared(config, engine, case) for case in unit]))
            out.writelines(json.dumps({case_id: text}) + "\n" for case_id, text in made.items())
            written |= made
            ends.append(time.monotonic())
    return tuple(ends), written


class _Everything:
    """The naive actor: its model, and all the work around it."""

    def __init__(self, config: Config) -> None:
        self._config, self._engine = config, _engine(config)

    def __call__(self, batch: pa.Table) -> pa.Table:
        cases = [CaseRecord.from_row(row) for row in batch.to_pylist()]
        prepared = [_prepared(self._config, self._engine, case) for case in cases]
        texts = _texts(cases, self._engine.draft(prepared))
        end = time.monotonic()
        rows = [
            {"case_id": case_id, "findings": findings, "detail": detail, "end": end}
            for case_id, (findings, detail) in texts.items()
        ]
        return pa.Table.from_pylist(rows, schema=_NAIVE)


def _naive(config: Config, layout: Layout) -> tuple[tuple[float, ...], Written]:
    workspace = config.open_workspace()
    out = workspace.path("naive")
    ray.init(address="local", num_cpus=config.ray.num_cpus, log_to_driver=False, logging_level=logging.ERROR)
    DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    size = config.annotate.cases_per_unit
    cases = ray.data.read_parquet(workspace.path("cases"), override_num_blocks=1).repartition(
        target_num_rows_per_block=size
    )
    cases.map_batches(
        _Everything,
        fn_constructor_args=(config,),
        compute=ActorPoolStrategy(size=layout.engines),
        num_cpus=layout.threads,
        batch_size=size,
        batch_format="pyarrow",
    ).write_parquet(out)
    rows = pq.read_table(out).to_pylist()
    shutil.rmtree(out)
    ray.shutdown()
    return tuple(sorted({row["end"] for row in rows})), {
        row["case_id"]: (row["findings"], row["detail"]) for row in rows
    }


def _engine(config: Config) -> TransformersEngine:
    workspace = config.open_workspace()
    version = registry.resolve(workspace, config.model.name)
    return TransformersEngine(registry.fetch(workspace, version), config.annotate.engine)


def _prepared(config: Config, engine: TransformersEngine, case: CaseRecord) -> PreparedCase:
    workspace = config.open_workspace()
    images = tuple(decode_frame(workspace.read_bytes(image.image_key)) for image in case.images)
    return prepare(engine.processor, CaseInput(case.case_id, images, case.organ_hint))


def _texts(unit: Sequence[PreparedCase | CaseRecord], results: Sequence[Draft | RejectedError]) -> Written:
    return {
        case.case_id: (result.findings, None) if isinstance(result, Draft) else (None, result.detail)
        for case, result in zip(unit, results, strict=True)
    }
