"""The CPU stage: fetch a unit's key frames and cut them into patches; a bad case becomes a rejection."""

from __future__ import annotations

import logging
import pickle
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
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
from sonoloop.platform import logs, registry
from sonoloop.platform.errors import Reason, RejectedError, StorageError
from sonoloop.platform.workspace import Store

logger = logging.getLogger(__name__)

PREPARED = pa.schema([("unit", pa.int64()), ("prepared", pa.binary())])
"""A unit on its way to the model: a pickled list of ``(UnitCase, PreparedCase | RejectedError)``."""

FETCHED_AHEAD = 8
"""Key frames that are on their way while one is decoded: a store's latency costs nothing, and no more than
these and one case's wait in memory."""


class Preparer:
    """Makes a unit ready for the model. Pixels live from here to the model stage only.

    Args:
        run: The run.
    """

    def __init__(self, run: RunContext) -> None:
        logs.in_run(run.run_id)
        self._guarded = Guarded(run, "prepare")
        self._workspace: Store = run.workspace
        self._max_images = run.config.engine.max_images
        self._patiently = Patience(run.config.storage_patience_s)
        folder = self._patiently(registry.fetch, run.workspace, run.model_version)
        self._cutter = PatchCutter.from_folder(folder, max_pixels=run.config.engine.max_pixels)
        self._fetchers = ThreadPoolExecutor(FETCHED_AHEAD, thread_name_prefix="fetch")
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
        prepared = pickle.dumps(self._unit(unit, cases), protocol=pickle.HIGHEST_PROTOCOL)
        self._reporter.prepared(unit, len(cases))
        return prepared

    def _unit(
        self, unit: int, rows: list[Mapping[str, Any]]
    ) -> list[tuple[UnitCase, PreparedCase | RejectedError]]:
        cases = [UnitCase.from_row(dict(row)) for row in rows]
        return list(zip(cases, self._guarded.do(unit, cases, self._outcomes), strict=True))

    def _outcomes(self, cases: Sequence[UnitCase]) -> list[PreparedCase | RejectedError]:
        chosen = [choose_images(len(case.image_keys), self._max_images) for case in cases]
        keys = (case.image_keys[at] for case, indices in zip(cases, chosen, strict=True) for at in indices)
        files = self._fetched(keys)
        return [
            self._case(case, indices, list(islice(files, len(indices))))
            for case, indices in zip(cases, chosen, strict=True)
        ]

    def _fetched(self, keys: Iterable[str]) -> Iterator[Future[bytes]]:
        """The key frames' files in order, some of them fetched ahead of the one that is read."""
        under_way: deque[Future[bytes]] = deque()
        for key in keys:
            under_way.append(self._fetchers.submit(self._patiently, self._workspace.read_bytes, key))
            if len(under_way) > FETCHED_AHEAD:
                yield under_way.popleft()
        while under_way:
            yield under_way.popleft()

    def _case(
        self, case: UnitCase, indices: tuple[int, ...], files: Sequence[Future[bytes]]
    ) -> PreparedCase | RejectedError:
        try:
            images = tuple(_decoded(file) for file in files)
            taken = CaseInput(case.case_id, images, case.organ_hint, image_indices=indices)
            return prepare(self._cutter, taken, max_images=None)  # the choice is made
        except RejectedError as err:
            return err
        except Exception as err:  # the stage's boundary: whatever a picture provokes stays with its case
            logger.warning("a case cannot be prepared (%s)", type(err).__name__)
            detail = f"the images cannot be prepared ({type(err).__name__})"
            return RejectedError(Reason.UNREADABLE, detail, retryable=isinstance(err, MemoryError))


def _decoded(file: Future[bytes]) -> Rgb:
    try:
        return decode_frame(file.result())
    except FileNotFoundError as err:
        raise RejectedError(Reason.IMAGE_MISSING, "a key frame is gone; run `sonoloop index` again") from err
    except StorageError as err:
        raise RejectedError(Reason.STORAGE, "a key frame could not be fetched", retryable=True) from err
