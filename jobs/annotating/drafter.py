"""The model stage: weights load once per actor; every case of a unit leaves as a draft or a rejection."""

from __future__ import annotations

import pickle
from collections.abc import Iterable
from typing import Any

import pyarrow as pa

from sonoloop.jobs.annotating.context import RunContext
from sonoloop.jobs.annotating.guard import Guarded
from sonoloop.jobs.annotating.patience import Patience
from sonoloop.jobs.annotating.units import UnitCase
from sonoloop.jobs.annotating.watch import Reporter
from sonoloop.model.draft import Draft, draft_columns
from sonoloop.model.open_engine import open_engine
from sonoloop.model.prepared import PreparedCase
from sonoloop.platform import logs, registry
from sonoloop.platform.errors import RejectedError
from sonoloop.platform.records import DraftRecord


class Drafter:
    """Drafts units.

    Args:
        run: The run.
    """

    def __init__(self, run: RunContext) -> None:
        logs.in_run(run.run_id)
        self._run = run
        self._guarded = Guarded(run, "draft")
        folder = Patience(run.config.storage_patience_s)(registry.fetch, run.workspace, run.model_version)
        self._engine = open_engine(folder, run.config.engine)
        self._reporter = Reporter(run, "draft")

    def __call__(self, batch: pa.Table) -> Iterable[pa.Table]:
        """Prepared units in, one `DraftRecord` row per case out, a table for each unit."""
        for row in batch.to_pylist():
            pairs = pickle.loads(row["prepared"])
            self._reporter.begin()
            records = self._unit(row["unit"], pairs)
            self._reporter.drafted(row["unit"], records)
            self._guarded.count(records)
            yield DraftRecord.table(records)

    def _unit(
        self, unit: int, pairs: list[tuple[UnitCase, PreparedCase | RejectedError]]
    ) -> list[DraftRecord]:
        prepared = [case for _, case in pairs if isinstance(case, PreparedCase)]
        results = iter(self._guarded.do(unit, prepared, self._engine.draft))
        return [
            self._record(unit, case, outcome, "prepare")
            if isinstance(outcome, RejectedError)
            else self._record(unit, case, next(results), "draft")
            for case, outcome in pairs
        ]

    def _record(self, unit: int, case: UnitCase, outcome: Draft | RejectedError, stage: str) -> DraftRecord:
        tries = outcome.tries if isinstance(outcome, RejectedError) else 1
        return DraftRecord(**draft_columns(outcome, stage=stage), **self._stamp(unit, case, tries=tries))

    def _stamp(self, unit: int, case: UnitCase, *, tries: int) -> dict[str, Any]:
        return {
            "case_id": case.case_id,
            "run_id": self._run.run_id,
            "model_version": self._run.model_version,
            "prompt_version": self._run.prompt_version,
            "config_hash": self._run.config_hash,
            "attempts": case.attempts + tries,
            "inputs_hash": case.inputs_hash,
            "unit": unit,
        }
