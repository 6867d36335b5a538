"""Drafts of a model version beside their cases, a range of keys at a time: none of them is held for long."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import pyarrow as pa
import pyarrow.compute as pc

from sonoloop.platform.records import CaseRecord, DraftRecord, ReviewRecord
from sonoloop.platform.sorted_rooms import CASES, DRAFTS, KeyRange, RoomReader, ranges_of
from sonoloop.platform.tables import of_version
from sonoloop.platform.workspace import Store

ROWS_PER_RANGE = 10_000
ROWS_AT_ONCE = 1000
_TEXTS = {"findings", "impression", "boxes", "detail"}
_SHORT = tuple(name for name in DraftRecord.ARROW.names if name not in _TEXTS)
_ESCAPES = ("annotation_id", "case_id", "updated_at", "escape", "deleted")


@dataclass(frozen=True, slots=True)
class Drafted:
    """A case and its draft."""

    case: CaseRecord
    draft: DraftRecord


class DraftedCases:
    """The cases that a model and prompt version drafted and that may be shown.

    Left out: rejections, cases that the archive withdrew, and those in `hidden_cases`.

    Args:
        workspace: Where drafts and cases lie.
        model_version, prompt_version: Whose drafts.
    """

    def __init__(self, workspace: Store, model_version: str, prompt_version: str) -> None:
        self._workspace, self._where = workspace, of_version(model_version, prompt_version)
        self._short = RoomReader(workspace, DRAFTS, columns=_SHORT, where=self._where)
        self._cases = RoomReader(workspace, CASES)
        self._hidden = pa.array(sorted(hidden_cases(workspace)), pa.string())
        self._ranges = ranges_of(self._short.files, ROWS_PER_RANGE)

    @cached_property
    def _whole(self) -> RoomReader:
        return RoomReader(self._workspace, DRAFTS, where=self._where)

    def without_texts(self) -> Iterator[list[Drafted]]:
        """All of them by case id, some at a time, without the report and the boxes."""
        for keys in self._ranges:
            yield from self._joined(self._short, keys, None)

    def whole(self, case_ids: Sequence[str]) -> dict[str, Drafted]:
        """Some of them with all they have, by case id; those that may not be shown are not there.

        What it holds grows with the number of ids: ask for some thousands at once.
        """
        wanted = sorted(case_ids)
        found: dict[str, Drafted] = {}
        for keys in self._ranges:
            first = 0 if keys.low is None else bisect_left(wanted, keys.low)
            end = len(wanted) if keys.high is None else bisect_left(wanted, keys.high)
            if first < end:
                ids = pa.array(wanted[first:end], pa.string())
                between = KeyRange(wanted[first], wanted[end - 1] + "\0")
                for some in self._joined(self._whole, between, ids):
                    found.update((one.case.case_id, one) for one in some)
        return found

    def _joined(self, reader: RoomReader, keys: KeyRange, ids: pa.Array | None) -> Iterator[list[Drafted]]:
        drafts = reader.read(keys)
        may_show = pc.and_(
            pc.equal(drafts["status"], "draft"),
            pc.invert(pc.is_in(drafts["case_id"], value_set=self._hidden)),
        )
        if ids is not None:
            may_show = pc.and_(may_show, pc.is_in(drafts["case_id"], value_set=ids))
        drafts = drafts.filter(may_show)
        if not drafts.num_rows:
            return
        cases = self._cases.read(keys)
        cases = cases.filter(pc.invert(pc.fill_null(cases["withdrawn"], False)))
        for start in range(0, drafts.num_rows, ROWS_AT_ONCE):
            some = drafts.slice(start, ROWS_AT_ONCE)
            of_these = cases.filter(pc.is_in(cases["case_id"], value_set=some["case_id"].combine_chunks()))
            by_id = {row["case_id"]: CaseRecord.from_row(row) for row in of_these.to_pylist()}
            rows = [row for row in some.to_pylist() if row["case_id"] in by_id]
            yield [Drafted(by_id[row["case_id"]], DraftRecord.from_row(row)) for row in rows]


def hidden_cases(workspace: Store) -> set[str]:
    """Cases in whose pictures a reader saw patient data, and took no word of it back.

    Raises:
        StorageError: the workspace cannot be read.
    """
    schema = pa.schema([ReviewRecord.ARROW.field(name) for name in _ESCAPES])
    table = workspace.read_tables(schema, "reviews").sort_by("updated_at")
    newest = {row["annotation_id"]: row for row in table.to_pylist()}
    return {
        row["case_id"]
        for row in newest.values()
        if row["escape"] == "patient-data-visible" and not row["deleted"]
    }
