"""``sonoloop annotate`` at scale, simulated: a null engine and tiny rows, the rest as it is.

1. In a local folder, each step in a process of its own: planning (choosing cases, writing units), the
   Ray Data pipeline, killed in the middle and gone on with, closing (verifying and compacting), and planning
   again when every case is drafted. Seconds, cases per second, peak memory of the process that drives it.
2. On the local S3, smaller: requests by kind for each of these steps.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
from tests.fault_proxy import proxy_before

from benchmarks.indexing import local_s3
from sonoloop.jobs.annotating.closing import close_run
from sonoloop.jobs.annotating.context import RunContext
from sonoloop.jobs.annotating.pipeline import Stages, write_drafts
from sonoloop.jobs.annotating.selection import EVERYTHING, Chooser
from sonoloop.jobs.annotating.units import write_units
from sonoloop.jobs.config import AnnotateConfig
from sonoloop.jobs.runs import ray_session
from sonoloop.platform.cluster import RayConfig
from sonoloop.platform.records import CaseImage, CaseRecord, DraftRecord, content_id
from sonoloop.platform.sorted_rooms import CASES
from sonoloop.platform.workspace import Store

RUN = "annotate-simulated"
MODEL, PROMPT = "echovlm/null", "null"
CASES_PER_FILE = 16
"""What one task of ``sonoloop index`` writes: 64 instances, four to a case."""
IMAGES_PER_CASE = 4
_AUTHENTICATE = "from sonoloop.platform.cluster import choose_authentication; choose_authentication()"
_STEP = f"{_AUTHENTICATE}; from benchmarks.scaling import step; import sys; step(*sys.argv[1:])"


def simulate(workspace: Store, num_cases: int) -> None:
    """Cases of four key frames, in sorted files."""
    case_ids = sorted(content_id(str(number)) for number in range(num_cases))
    for begin in range(0, num_cases, CASES_PER_FILE):
        rows = [_case(case_id) for case_id in case_ids[begin : begin + CASES_PER_FILE]]
        table = pa.Table.from_pylist(rows, schema=CaseRecord.ARROW)
        workspace.write_table(table, CASES.name, "simulated", f"{begin:09d}.parquet")


def _case(case_id: str) -> dict[str, Any]:
    keys = [content_id(case_id, str(number), length=64) for number in range(IMAGES_PER_CASE)]
    return _TEMPLATE | {
        "case_id": case_id,
        "patient_key": case_id,
        "inputs_hash": case_id,
        "images": [_IMAGE | {"image_key": f"images/{key[:2]}/{key}.png"} for key in keys],
    }


_IMAGE = CaseImage(image_key="", instance_id="0" * 24, frame_index=0, width=800, height=600).model_dump()
_TEMPLATE = CaseRecord(
    case_id="",
    patient_key="",
    organ_hint="liver",
    scanner="s",
    images=(),
    indexed_at=datetime(2026, 1, 1, tzinfo=UTC),
).row()


class NullPreparer:
    """Passes units on without a look at their images."""

    def __init__(self, run: RunContext) -> None:
        del run

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Units in, units out."""
        rows = [{"unit": r["unit"], "prepared": pickle.dumps(r["cases"])} for r in batch.to_pylist()]
        return pa.Table.from_pylist(rows)


class NullDrafter:
    """Writes the same small draft for every case."""

    def __init__(self, run: RunContext) -> None:
        draft = DraftRecord(
            case_id="",
            run_id=run.run_id,
            model_version=run.model_version,
            prompt_version=run.prompt_version,
            config_hash=run.config_hash,
            status="draft",
            findings="f",
            impression="i",
            entities="{}",
            confidence=0.5,
            num_tokens=1,
        )
        self._row = DraftRecord.table([draft])

    def __call__(self, batch: pa.Table) -> Iterator[pa.Table]:
        """Prepared units in, rows of `DraftRecord` out."""
        for row in batch.to_pylist():
            cases = pickle.loads(row["prepared"])
            own: dict[str, list[Any]] = {
                "case_id": [case["case_id"] for case in cases],
                "attempts": [case["attempts"] + 1 for case in cases],
                "inputs_hash": [case["inputs_hash"] for case in cases],
                "unit": [row["unit"]] * len(cases),
            }
            table = self._row.take([0] * len(cases))
            for name, values in own.items():
                index = table.schema.get_field_index(name)
                field = table.schema.field(index)
                table = table.set_column(index, field, pa.array(values, field.type))
            yield table


def plan(workspace: Store, cases_per_unit: int, run_id: str = RUN) -> int:
    """Choose all cases without a draft and cut them into units, as ``sonoloop annotate`` does."""
    chooser = Chooser(workspace, MODEL, PROMPT, EVERYTHING)
    return write_units(workspace, run_id, chooser.choose(), cases_per_unit=cases_per_unit)


def draft(workspace: Store) -> dict[str, float]:
    """The pipeline with null stages; seconds until its first new file is there, and the peak until then."""
    run = RunContext(
        workspace=workspace,
        run_id=RUN,
        model_version=MODEL,
        prompt_version=PROMPT,
        config_hash="null",
        config=AnnotateConfig(),
    )
    first: dict[str, float] = {}
    begin = time.perf_counter()
    if not workspace.is_s3:
        folder = Path(workspace.path("drafts", RUN))
        threading.Thread(target=_await_file, args=(folder, begin, first), daemon=True).start()
    write_drafts(run, Stages(prepare=NullPreparer, draft=NullDrafter))
    return first


def _await_file(folder: Path, begin: float, first: dict[str, float]) -> None:
    before = num_files(folder)
    while num_files(folder) <= before:
        time.sleep(0.05)
    first |= {"first_s": time.perf_counter() - begin, "first_mib": peak_mib()}


def num_files(folder: Path) -> int:
    """Entries of a folder, which need not be there."""
    return sum(1 for _ in folder.iterdir()) if folder.is_dir() else 0


def peak_mib() -> float:
    """This process's own peak; ``ru_maxrss`` begins with that of the process that started it."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line)
    return int(line.split()[1]) / 1024


def do(name: str, workspace: Store, cases_per_unit: int) -> dict[str, float]:
    """One step of a run, with what it has to say."""
    if name == "simulate":
        simulate(workspace, cases_per_unit)
    elif name == "plan":
        return {"cases": plan(workspace, cases_per_unit)}
    elif name == "plan again":
        return {"cases": plan(workspace, cases_per_unit, f"{RUN}-again")}
    elif name == "draft":
        return draft(workspace)
    elif name == "close":
        counts = close_run(workspace, RUN)
        return {"cases": counts.cases, "drafted": counts.drafted}
    return {}


def step(name: str, uri: str, number: str) -> None:
    """Do a step in this process and print its figures as JSON."""
    with ray_session(RayConfig()) if name in ("draft", "close") else nullcontext():
        before, begin, cpu = peak_mib(), time.perf_counter(), time.process_time()
        found = do(name, Store(uri), int(number))
        seconds, cpu = time.perf_counter() - begin, time.process_time() - cpu
    found |= {"seconds": seconds, "cpu_s": cpu, "before_mib": before, "peak_mib": peak_mib()}
    print(json.dumps(found), flush=True)


def in_process(
    name: str, workspace: Store, number: int, until: Callable[[], bool] | None = None
) -> dict[str, float]:
    """A step in a process of its own, which is killed with all that it started when ``until`` says so."""
    command = [sys.executable, "-c", _STEP, name, workspace.uri, str(number)]
    begin = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    while until is not None and process.poll() is None:
        if until():
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return {"seconds": time.perf_counter() - begin}
        time.sleep(0.2)
    output, _ = process.communicate()
    if process.returncode:
        sys.exit(f"{name} failed with status {process.returncode}")
    found: dict[str, float] = json.loads(output.strip().splitlines()[-1])
    return found


def size(num_cases: int, cases_per_unit: int) -> None:
    """All steps over so many cases in a local folder."""
    with tempfile.TemporaryDirectory() as name:
        workspace = Store(name)
        in_process("simulate", workspace, num_cases)
        say("plan", num_cases, in_process("plan", workspace, cases_per_unit))
        num_units = -(-num_cases // cases_per_unit)
        drafts, checkpoint = (
            Path(workspace.path(*parts)) for parts in (("drafts", RUN), ("runs", RUN, "checkpoint"))
        )
        print(
            f"  {num_units:,} units, {num_files(Path(workspace.path('runs', RUN, 'input')))} parts",
            flush=True,
        )
        half = num_units // 2
        in_process("draft", workspace, 0, lambda: num_files(drafts) >= half)
        done = num_files(drafts)
        print(
            f"  killed with {done:,} files of drafts, {num_files(checkpoint):,} of the checkpoint", flush=True
        )
        found = in_process("draft", workspace, 0)
        say("gone on with", num_cases - done * cases_per_unit, found)
        print(f"  first new file after {found['first_s']:.1f} s, peak by then {found['first_mib']:.0f} MiB")
        print(f"  {num_files(drafts):,} files of drafts, {num_files(checkpoint):,} of the checkpoint")
        say("close", num_cases, in_process("close", workspace, 0))
        print(f"  {num_files(drafts):,} files, {_bytes(drafts) / num_cases:.0f} bytes per row")
        say("plan again", num_cases, in_process("plan again", workspace, cases_per_unit))


def say(name: str, num_cases: int, found: dict[str, float]) -> None:
    """A line on a step."""
    seconds = found["seconds"]
    memory = f"peak {found['peak_mib']:.0f} MiB ({found['before_mib']:.0f} before)"
    rate = f"{seconds:.1f} s, {num_cases / seconds:,.0f} cases/s"
    print(f"  {name}: {rate}; its process: {found['cpu_s']:.1f} s of CPU, {memory}", flush=True)


def _bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir())


def requests(num_cases: int, cases_per_unit: int) -> None:
    """Requests of all steps on a real S3; Ray's workers inherit the endpoint."""
    with local_s3(), proxy_before(os.environ["AWS_ENDPOINT_URL"]) as proxy:
        workspace = Store("s3://sonoloop-workspace/simulated")
        simulate(workspace, num_cases)
        os.environ["AWS_ENDPOINT_URL"] = proxy.endpoint
        workspace = Store(workspace.uri)
        with ray_session(RayConfig()):
            for name in (
                "plan",
                "draft",
                "draft",
                "close",
                "plan again",
            ):  # the second one reads a checkpoint
                begin = time.perf_counter()
                do(name, workspace, cases_per_unit)
                seconds = time.perf_counter() - begin
                asked = proxy.take_kinds()
                kinds = ", ".join(f"{count} {kind}" for kind, count in asked.most_common())
                print(f"  {name}: {seconds:.1f} s, {sum(asked.values())} requests: {kinds}", flush=True)


def main(arguments: Sequence[str] = ()) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks scaling")
    parser.add_argument("--cases", type=int, default=100_000, help="in a local folder; 0 for none")
    parser.add_argument("--cases-per-unit", type=int, default=256)
    parser.add_argument("--s3-cases", type=int, default=20_000, help="on the local S3; 0 for none")
    options = parser.parse_args(arguments)
    if options.cases:
        print(f"{options.cases:,} cases, {options.cases_per_unit} to a unit", flush=True)
        size(options.cases, options.cases_per_unit)
    if options.s3_cases:
        print(f"{options.s3_cases:,} cases on S3, {options.cases_per_unit} to a unit", flush=True)
        requests(options.s3_cases, options.cases_per_unit)
