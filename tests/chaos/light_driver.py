"""A driver of the drafting pipeline with stages that cost nothing but leave marks: who ran where, and when.

``python -m tests.chaos.light_driver WORKSPACE SETTINGS MIB SECONDS``: SETTINGS are those of `AnnotateConfig`
as JSON, MIB what a prepared unit weighs, SECONDS what drafting one takes. Marks are empty files:
``marks/<role>-<node>-<pid>``, ``marks/unit-<number>-<pid>-<time>``.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pyarrow as pa
import ray

from sonoloop.jobs.annotating.context import RunContext
from sonoloop.jobs.annotating.pipeline import Stages, write_drafts
from sonoloop.jobs.annotating.units import UnitCase, case_ids_of, write_units
from sonoloop.jobs.config import AnnotateConfig
from sonoloop.jobs.runs import ray_session
from sonoloop.platform.cluster import RayConfig
from sonoloop.platform.errors import Reason
from sonoloop.platform.records import DraftRecord
from sonoloop.platform.workspace import Store

RUN = "annotate-light"
CASES_PER_UNIT = 2


def make_units(workspace: Store, num_units: int) -> None:
    """The input of the run."""
    names = (f"case-{number:04}" for number in range(num_units * CASES_PER_UNIT))
    cases = (UnitCase(name, None, (), None, attempts=0) for name in names)
    write_units(workspace, RUN, cases, cases_per_unit=CASES_PER_UNIT)
    Path(workspace.root, "marks").mkdir()


@dataclass(frozen=True)
class LightRun(RunContext):
    """A run that knows what a prepared unit weighs, MiB, and how many seconds one takes to draft."""

    mib: float = 0
    seconds: float = 0


class _Marked:
    role: ClassVar[str]

    def __init__(self, run: LightRun) -> None:
        self._run = run
        self._marks = Path(run.workspace.root, "marks")
        self.mark(f"{self.role}-{ray.get_runtime_context().get_node_id()}-{os.getpid()}")

    def mark(self, name: str) -> None:
        (self._marks / name).touch()


class Weigher(_Marked):
    """Prepares: gives a unit its weight."""

    role = "preparer"

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Units in, units with a weight out."""
        weight = bytes(int(self._run.mib * 2**20))
        return batch.append_column("prepared", pa.array([weight] * batch.num_rows, pa.large_binary()))


class Sleeper(_Marked):
    """Drafts: sleeps, and rejects every case."""

    role = "drafter"

    def __call__(self, batch: pa.Table) -> Iterator[pa.Table]:
        """Prepared units in, rows of `DraftRecord` out."""
        (unit,) = batch["unit"].to_pylist()
        time.sleep(self._run.seconds)
        self.mark(f"unit-{unit}-{os.getpid()}-{time.time_ns()}")
        yield DraftRecord.table([self._row(unit, case_id) for case_id in case_ids_of(batch).to_pylist()])

    def _row(self, unit: int, case_id: str) -> DraftRecord:
        return DraftRecord(
            case_id=case_id,
            run_id=RUN,
            model_version="light/1",
            prompt_version="p",
            config_hash="c",
            status="rejected",
            stage="draft",
            reason=Reason.NO_RESULT,
            detail="by the test",
            attempts=1,
            unit=unit,
        )


def main(uri: str, settings: str, mib: str, seconds: str) -> None:
    """Draft what is left of the run."""
    run = LightRun(
        workspace=Store(uri),
        run_id=RUN,
        model_version="light/1",
        prompt_version="p",
        config_hash="c",
        config=AnnotateConfig.model_validate_json(settings),
        mib=float(mib),
        seconds=float(seconds),
    )
    with ray_session(RayConfig()):
        write_drafts(run, Stages(prepare=Weigher, draft=Sleeper))


if __name__ == "__main__":
    from tests.chaos import light_driver  # so that the classes are importable where the workers are

    light_driver.main(*sys.argv[1:])
