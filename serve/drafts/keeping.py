"""A study and its draft into the workspace, as indexing and annotating would write them.

A case that the workspace has is left as it is: what came with a request may be less than the archive has.
One in which a person saw patient data is not brought back. What was received itself is never written. A later
index finds the case made under the same rules and leaves it alone; under other rules it withdraws it, since
there is nothing to make it from again.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from sonoloop.platform.archive.deidentify.quarantine import read_keeps
from sonoloop.platform.archive.received import without_paths
from sonoloop.platform.records import CaseRecord, DraftRecord, content_id
from sonoloop.platform.sorted_rooms import (
    CASES,
    DRAFTS,
    FRAMES,
    INSTANCES,
    KeyRange,
    RoomReader,
    write_sorted,
)
from sonoloop.platform.tables import of_version, read_cases_of
from sonoloop.platform.workspace import Store
from sonoloop.serve.drafts.answers import Kept
from sonoloop.serve.drafts.messages import StudyRead

RUN_ID = "serve"
_IMAGES_AT_ONCE = 8


def keep(workspace: Store, study: StudyRead, images: Sequence[bytes], draft: DraftRecord) -> Kept:
    """Write what is not there yet: images, instances, frames, case and draft, in this order. Blocks.

    Args:
        workspace: Where to.
        study: As it was read.
        images: PNGs, in the order of the case's images.
        draft: What the model wrote.

    Raises:
        StorageError: the workspace cannot be read or written.
    """
    case = study.case
    if _is_kept_in(workspace, study):
        return Kept(case="withdrawn", draft="not kept")
    known = read_cases_of(workspace, [case.case_id]).get(case.case_id)
    if known is None:
        _write_case(workspace, study, images)
    elif _shows(known) != _shows(case):
        return Kept(case="there with other frames", draft="not kept")
    is_new = _write_draft(workspace, draft, known or case)
    return Kept(case="new" if known is None else "there before", draft="new" if is_new else "there before")


def _is_kept_in(workspace: Store, study: StudyRead) -> bool:
    """Whether a person decided that a picture of the study stays in.

    DICOM files are known by their ids, since the archive's version of one has another etag than a file that
    was received; pictures by their content, since their ids are made of all files that came together.
    """
    shown = {image.instance_id for image in study.case.images}
    contents = {row.etag for row in study.instances if row.instance_id in shown}
    keeps = read_keeps(workspace).values()
    return any(keep.instance_id in shown or keep.etag in contents for keep in keeps)


def _shows(case: CaseRecord) -> list[str]:
    return [image.image_key for image in case.images]


def _write_case(workspace: Store, study: StudyRead, images: Sequence[bytes]) -> None:
    keys = _shows(study.case)
    with ThreadPoolExecutor(_IMAGES_AT_ONCE) as pool:
        list(pool.map(lambda key, data: workspace.write_bytes(data, key), keys, images))
    name = f"{content_id(study.case.case_id, length=16)}.parquet"
    rows = [without_paths(row) for row in study.instances]
    write_sorted(workspace, INSTANCES, rows, RUN_ID, name)
    write_sorted(workspace, FRAMES, study.frames, RUN_ID, name)
    write_sorted(workspace, CASES, [study.case], RUN_ID, name)


def _write_draft(workspace: Store, draft: DraftRecord, case: CaseRecord) -> bool:
    """Whether it was new; a draft of this case by this model and prompt version stays."""
    where = of_version(draft.model_version, draft.prompt_version)
    only = KeyRange(case.case_id, case.case_id + "\0")
    if RoomReader(workspace, DRAFTS, where=where).read(only).num_rows:
        return False
    row = draft.model_copy(update={"attempts": 1, "inputs_hash": case.inputs_hash})
    name = content_id(draft.case_id, draft.model_version, draft.prompt_version, length=16)
    write_sorted(workspace, DRAFTS, [row], RUN_ID, f"{name}.parquet")
    return True
