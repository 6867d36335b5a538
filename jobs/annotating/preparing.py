"""The CPU stage: fetch a unit's key frames and cut them into patches; a bad case becomes a rejection."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from sonoloop.jobs.annotating.context import RunContext
from sonoloop.jobs.annotating.guard import Guarded
from sonoloop.jobs.annotating.patience import Patience
from sonoloop.jobs.annotating.units import UnitCase
from sonoloop.jobs.annotating.watch import Reporter
from sonoloop.model.chosen import choose_images
from sonoloop.model.frames import Rgb, decode_frame
from sonoloop.model.patches import PatchCutter
from sonoloop.model.prepared import CaseInput, PreparedCase, prepare
from sonoloop.platform import registry
from sonoloop.platform.errors import Reason, RejectedError, StorageError
from sonoloop.platform.workspace import Store

logger = logging.getLogger(__name__)

PREPARED = pa.schema([("unit", pa.int64()), ("prepared", pa.binary())])
"""A unit on its way to the model: a pickled list of ``(UnitCase, PreparedCase | RejectedError)``."""


class Preparer:
    """Makes a unit ready for the model. Pixels live from here to the model stage only.

    Args:
        run: The run.
    """

    def __init__(self, run: RunContext) -> None:
        self._guarded = Guarded(run, "prepare")
        self._workspace: Store = run.workspace
        self._max_images = run.config.engine.max_images
        self._patiently = Patience(run.config.storage_patience_s)
        folder = self._patiently(registry.fetch, run.workspace, run.model_version)
        self._cutter = PatchCutter.from_folder(folder, max_pixels=run.config.engine.max_pixels)
        self._reporter = Reporter(run, "prepare")

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Units in, one row of `PREPARED` per unit out."""
        rows = [
            {"unit": row["unit"], "prepared": self._prepared_unit(row["unit"], row["cases"])}
            for row in batch.to_pylist()
        ]
        return pa.Table.from_pylist(rows, schema=PREPARED)

    def _prepared_unit(self, unit: int, cases: list[Mapping[str, Any]]) -> bytes:
        self._reporter.begin()
        prepared = pickle.dumps(self._unit(unit, cases))
        self._reporter.prepared(unit, len(cases))
        return prepared

    def _unit(
        self, unit: int, rows: list[Mapping[str, Any]]
    ) -> list[tuple[UnitCase, PreparedCase | RejectedError]]:
        cases = [UnitCase.from_row(dict(row)) for row in rows]
        outcomes = self._guarded.do(unit, cases, lambda some: [self._case(case) for case in some])
        return list(zip(cases, outcomes, strict=True))

    def _case(self, case: UnitCase) -> PreparedCase | RejectedError:
        try:
            return self._prepared(case)
        except RejectedError as err:
            return err
        except Exception as err:  # the stage's boundary: whatever a picture provokes stays with its case
            logger.warning("a case cannot be prepared (%s)", type(err).__name__)
            detail = f"the images cannot be prepared ({type(err).__name__})"
            return RejectedError(Reason.UNREADABLE, detail, retryable=isinstance(err, MemoryError))

    def _prepared(self, case: UnitCase) -> PreparedCase:
        chosen = choose_images(len(case.image_keys), self._max_images)  # before they are fetched
        images = tuple(self._load(case.image_keys[index]) for index in chosen)
        taken = CaseInput(case.case_id, images, case.organ_hint, image_indices=chosen)
        return prepare(self._cutter, taken, max_images=None)

    def _load(self, image_key: str) -> Rgb:
        try:
            return decode_frame(self._patiently(self._workspace.read_bytes, image_key))
        except FileNotFoundError as err:
            raise RejectedError(
                Reason.IMAGE_MISSING, "a key frame is gone; run `sonoloop index` again"
            ) from err
        except StorageError as err:
            raise RejectedError(Reason.STORAGE, "a key frame could not be fetched", retryable=True) from err
