"""What happens when a reader says that patient data is visible: the case's pictures are shown no more.

Every instance that gave the case an image gets a decision to keep it in, so that no later index lets the same
bytes out again, and a rejection that `sonoloop quarantine list` names; the case is withdrawn, and so is every
other case that shows one of the same images; the images are removed from the workspace. `sonoloop quarantine
release`, with masks, undoes it at the next index.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from sonoloop.platform.archive.deidentify.clean import RULES_VERSION
from sonoloop.platform.archive.deidentify.quarantine import Keep, decide, read_keeps
from sonoloop.platform.archive.rows import FrameRecord
from sonoloop.platform.errors import Reason
from sonoloop.platform.records import CaseRecord, content_id
from sonoloop.platform.sorted_rooms import CASES, FRAMES, INSTANCES, stream, write_sorted
from sonoloop.platform.workspace import Store

logger = logging.getLogger(__name__)

_DETAIL = "a reader saw patient data on the case's images"


def withdraw(workspace: Store, seen_by: Mapping[str, str]) -> int:
    """Withdraw these cases and those that show one of their images; returns how many.

    The case goes last: a crash in between leaves it to the next call, and nothing is done twice.

    Args:
        workspace: The workspace.
        seen_by: Case id to the pseudonym of the reader who saw patient data.

    Raises:
        StorageError: the workspace cannot be read or written.
    """
    cases = _showing(workspace, seen_by)
    if not cases:
        return 0
    at = max(datetime.now(UTC), *(case.indexed_at + timedelta(microseconds=1) for case in cases.values()))
    instances = {image.instance_id for case in cases.values() for image in case.images}
    readers = sorted({seen_by[case_id] for case_id in cases.keys() & seen_by.keys()})
    _keep_in(workspace, instances, by=" ".join(readers), at=at)
    for key in {image.image_key for case in cases.values() for image in case.images}:
        if workspace.exists(key):
            workspace.remove(key)
    name = f"{content_id(*sorted(cases), at.isoformat(), length=16)}.parquet"
    write_sorted(workspace, FRAMES, _rejections(workspace, cases, at), "withdrawn", name)
    gone = {"withdrawn": True, "images": (), "num_retryable": 0, "indexed_at": at}
    rows = [case.model_copy(update=gone) for case in cases.values()]
    write_sorted(workspace, CASES, rows, "withdrawn", name)
    logger.warning("%d cases were withdrawn: %s", len(rows), _DETAIL)
    return len(rows)


def _showing(workspace: Store, case_ids: Mapping[str, str]) -> dict[str, CaseRecord]:
    """The cases that are not withdrawn yet, and all that show one of their images."""
    wanted = pa.array(sorted(case_ids), pa.string())
    named = [row for table in stream(workspace, CASES) for row in _of(table, wanted).to_pylist()]
    keys = {image["image_key"] for row in named if not row["withdrawn"] for image in row["images"]}
    found: dict[str, CaseRecord] = {}
    for table in stream(workspace, CASES) if keys else ():
        for row in table.filter(pc.invert(pc.fill_null(table["withdrawn"], False))).to_pylist():
            if any(image["image_key"] in keys for image in row["images"]):
                found[row["case_id"]] = CaseRecord.from_row(row)
    return found


def _of(table: pa.Table, case_ids: pa.Array) -> pa.Table:
    return table.filter(pc.is_in(table["case_id"], value_set=case_ids))


def _keep_in(workspace: Store, instance_ids: set[str], *, by: str, at: datetime) -> None:
    """Decide that these instances stay in, in the version that the archive has."""
    wanted = pa.array(sorted(instance_ids), pa.string())
    etags: dict[str, str] = {}
    for table in stream(workspace, INSTANCES, columns=("instance_id", "etag", "status")):
        of_these = pc.is_in(table["instance_id"], value_set=wanted)
        for row in table.filter(pc.and_(of_these, pc.equal(table["status"], "indexed"))).to_pylist():
            etags.setdefault(row["instance_id"], row["etag"])
    keeps = read_keeps(workspace)
    for instance_id, etag in etags.items():
        if instance_id not in keeps or keeps[instance_id].etag != etag:
            about: dict[str, Any] = {"instance_id": instance_id, "etag": etag, "by": by, "at": at}
            decide(workspace, Keep(**about, note=_DETAIL, rules_version=RULES_VERSION))


def _rejections(workspace: Store, cases: Mapping[str, CaseRecord], at: datetime) -> list[FrameRecord]:
    """One for each instance of the cases: those that were rejected before as they were."""
    rows: dict[str, dict[str, FrameRecord]] = defaultdict(dict)
    wanted = pa.array(sorted(cases), pa.string())
    for table in stream(workspace, FRAMES):
        for row in map(FrameRecord.from_row, _of(table, wanted).to_pylist()):
            if row.status == "rejected":
                rows[row.case_id][row.instance_id] = row.model_copy(update={"prepared_at": at})
    for case in cases.values():
        for image in case.images:
            rows[case.case_id][image.instance_id] = FrameRecord(
                instance_id=image.instance_id,
                case_id=case.case_id,
                status="rejected",
                reason=Reason.PHI_SUSPECTED,
                detail=_DETAIL,
                retryable=False,
                rules_version=RULES_VERSION,
                prepared_at=at,
            )
    return [row for of_case in rows.values() for row in of_case.values()]
