"""Which cases a run drafts: those that have no draft of this model and prompt version, narrowed by a person.

Cases, drafts and the inputs of other runs are read a range of case ids at a time, so that the choice from
millions of cases holds one range in memory.
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Self

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from sonoloop.jobs.annotating.units import InputParts, UnitCase
from sonoloop.platform.errors import ConfigError, Reason
from sonoloop.platform.lexicon import Organ
from sonoloop.platform.records import content_id
from sonoloop.platform.settings import read_text
from sonoloop.platform.sorted_rooms import CASES, DRAFTS, KeyRange, RoomReader, ranges_of
from sonoloop.platform.tables import done_cases, of_version
from sonoloop.platform.workspace import S3Config, Store

ROWS_AT_ONCE = 1024
_CASE_COLUMNS = ("organ_hint", "images", "inputs_hash", "withdrawn")
_DRAFT_COLUMNS = ("status", "reason", "inputs_hash")


class Selection(BaseModel):
    """What a person asks for; everything that has no draft where nothing is named."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    since: datetime | None = Field(default=None, description="only cases indexed at or after this moment")
    organs: tuple[Organ, ...] = Field(default=(), description="only cases whose header names one of these")
    case_ids: frozenset[str] | None = Field(default=None, description="only these")
    unreviewed: bool = Field(default=False, description="only cases that nobody has reviewed")
    retry_rejected: bool = Field(default=False, description="only cases whose last attempt was rejected")
    reasons: tuple[Reason, ...] = Field(default=(), description="of those, only with one of these reasons")
    sample: int | None = Field(default=None, ge=1, description="so many of them, drawn by seed")
    seed: int = Field(default=0, description="of the draw")
    limit: int | None = Field(default=None, ge=1, description="at most so many, in the order of their ids")

    @model_validator(mode="after")
    def _reasons_are_of_rejections(self) -> Self:
        if self.reasons and not self.retry_rejected:
            raise ValueError("--reason narrows --retry-rejected; give both")
        return self

    @classmethod
    def of_options(cls, **options: Any) -> Self:
        """From what a person typed.

        Raises:
            ConfigError: an option has an impossible value.
        """
        try:
            return cls(**options)
        except ValidationError as err:
            raise ConfigError("; ".join(map(_complaint, err.errors()))) from err

    @property
    def is_bounded(self) -> bool:
        """Whether one run is all that was asked for, whatever comes meanwhile."""
        return bool(self.limit or self.sample or self.retry_rejected)

    @property
    def key(self) -> str:
        """Names the same wish: an interrupted run of it is continued."""
        values = self.model_dump(mode="json", exclude={"case_ids"})
        case_ids = sorted(self.case_ids) if self.case_ids is not None else []
        return content_id(repr(sorted(values.items())), str(self.case_ids is None), *case_ids, length=12)


def _complaint(item: Any) -> str:
    option = "".join(f"--{str(part).removesuffix('s').replace('_', '-')}: " for part in item["loc"][:1])
    return f"{option}{item['msg'].removeprefix('Value error, ')}"


def read_case_list(source: str, s3: S3Config) -> frozenset[str]:
    """The case ids of a file, one per line; blank lines do not count.

    Raises:
        ConfigError: no such file, or it names no case.
        StorageError: S3 refuses or does not answer.
    """
    text = read_text(source, "no case list at {}; it holds one case id per line", s3)
    case_ids = frozenset(filter(None, map(str.strip, text.splitlines())))
    if not case_ids:
        raise ConfigError(f"the case list {source} is empty; it holds one case id per line")
    return case_ids


EVERYTHING = Selection()
"""All cases that have no draft."""


@dataclass
class SelectionCounts:
    """Where the cases of the workspace go; ``cases`` is the sum of the others but ``unknown``.

    ``not_asked`` are outside of what was asked for, ``held`` in a run that is under way, ``unknown`` were
    asked for by id and are not in the workspace.
    """

    cases: int = 0
    selected: int = 0
    drafted: int = 0
    rejected_before: int = 0
    reviewed: int = 0
    held: int = 0
    not_asked: int = 0
    unknown: int = 0


class Chooser:
    """Chooses cases for one model and prompt version.

    Args:
        workspace: Where cases and drafts are.
        model_version: ``<name>/<version>``.
        prompt_version: Of the drafts.
        selection: What was asked for.
        held_by: Runs under way whose cases are taken.
    """

    def __init__(
        self,
        workspace: Store,
        model_version: str,
        prompt_version: str,
        selection: Selection,
        *,
        held_by: Sequence[str] = (),
    ) -> None:
        where = of_version(model_version, prompt_version)
        self._cases = RoomReader(workspace, CASES, columns=_CASE_COLUMNS)
        self._drafts = RoomReader(workspace, DRAFTS, columns=_DRAFT_COLUMNS, where=where)
        self._held = [InputParts(workspace, run_id) for run_id in held_by]
        self._selection = selection
        reviewed = done_cases(workspace) if selection.unreviewed else ()
        self._reviewed = pa.array(sorted(reviewed), pa.string())
        self.counts = SelectionCounts()

    def choose(self) -> Iterator[UnitCase]:
        """The cases in the order of their ids; `counts` is complete when the iterator is exhausted."""
        highest = self._highest_draw()
        self.counts = SelectionCounts(unknown=len(self._selection.case_ids or ()))
        for keys in ranges_of(self._cases.files):
            for row in _rows(self._eligible(keys)):
                drawn = highest is None or self._draw(row["case_id"]) <= highest
                if not drawn or self.counts.selected == self._selection.limit:
                    self.counts.not_asked += 1
                    continue
                self.counts.selected += 1
                yield _unit_case(row)

    def _highest_draw(self) -> int | None:
        """The draw up to which cases belong to the sample; None where all do."""
        if self._selection.sample is None:
            return None
        ids = (
            i for keys in ranges_of(self._cases.files) for i in self._eligible(keys)["case_id"].to_pylist()
        )
        return max(heapq.nsmallest(self._selection.sample, map(self._draw, ids)), default=0)

    def _draw(self, case_id: str) -> int:
        digest = hashlib.blake2b(f"{self._selection.seed}/{case_id}".encode(), digest_size=8)
        return int.from_bytes(digest.digest(), "big")

    def _eligible(self, keys: KeyRange) -> pa.Table:
        """The range's cases to draft, with the attempts so far; where the others went is counted."""
        cases = self._cases.read(keys)
        cases = cases.filter(pc.invert(cases["withdrawn"]))
        self.counts.cases += cases.num_rows
        cases = self._keep(cases, self._asked(cases), "not_asked")
        held = [parts.case_ids(keys) for parts in self._held]
        cases = self._keep(cases, _none_of(cases, held), "held")
        cases = self._keep(cases, _none_of(cases, [self._reviewed]), "reviewed")
        return self._undrafted(cases, self._drafts.read(keys))

    def _asked(self, cases: pa.Table) -> pa.Array:
        wish = self._selection
        asked = pa.array([True] * cases.num_rows, pa.bool_())
        if wish.case_ids is not None:
            asked = pc.is_in(cases["case_id"], value_set=pa.array(sorted(wish.case_ids), pa.string()))
            self.counts.unknown -= pc.sum(asked).as_py() or 0
        if wish.since is not None:
            asked = pc.and_(asked, pc.greater_equal(cases["indexed_at"], pa.scalar(wish.since)))
        if wish.organs:
            asked = pc.and_(
                asked, pc.is_in(cases["organ_hint"], value_set=pa.array(wish.organs, pa.string()))
            )
        return asked

    def _undrafted(self, cases: pa.Table, drafts: pa.Table) -> pa.Table:
        """Cases without a row and those whose images changed since; or rejected ones, where asked for."""
        row = pc.index_in(cases["case_id"], value_set=drafts["case_id"])
        last = drafts.take(row)
        changed = pc.fill_null(pc.not_equal(cases["inputs_hash"], last["inputs_hash"]), False)
        rejected = pc.fill_null(pc.equal(last["status"], "rejected"), False)
        if self._selection.retry_rejected:
            wanted = rejected
            if self._selection.reasons:
                reasons = pa.array(self._selection.reasons, pa.string())
                wanted = pc.and_(rejected, pc.is_in(last["reason"], value_set=reasons))
        else:
            wanted = pc.or_(pc.is_null(last["case_id"]), changed)
        cases = cases.append_column("attempts", pc.fill_null(last["attempts"], 0))
        refused = cases.filter(pc.and_(rejected, pc.invert(wanted))).num_rows
        self.counts.rejected_before += refused
        self.counts.drafted += cases.num_rows - refused - (pc.sum(wanted).as_py() or 0)
        return cases.filter(wanted)

    def _keep(self, cases: pa.Table, mask: pa.Array, otherwise: str) -> pa.Table:
        kept = cases.filter(mask)
        setattr(self.counts, otherwise, getattr(self.counts, otherwise) + cases.num_rows - kept.num_rows)
        return kept


def _rows(cases: pa.Table) -> Iterator[dict[str, Any]]:
    """The rows as Python values, a few at a time: of a whole range they took 500 MiB."""
    for batch in cases.to_batches(max_chunksize=ROWS_AT_ONCE):
        yield from batch.to_pylist()


def _none_of(cases: pa.Table, groups: Sequence[pa.Array]) -> pa.Array:
    """Which cases are in none of the groups of case ids."""
    found = pa.chunked_array(groups, pa.string()) if groups else pa.chunked_array([], pa.string())
    return pc.invert(pc.is_in(cases["case_id"], value_set=found.combine_chunks()))


def _unit_case(row: dict[str, Any]) -> UnitCase:
    return UnitCase(
        case_id=row["case_id"],
        organ_hint=row["organ_hint"],
        image_keys=tuple(image["image_key"] for image in row["images"]),
        inputs_hash=row["inputs_hash"],
        attempts=row["attempts"],
    )
