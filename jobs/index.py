"""``sonoloop index``: list the archive, open what is new, write instances, cases and key frames."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import ray
from pydantic import BaseModel, SecretStr

from sonoloop.jobs.config import Config, load_config
from sonoloop.jobs.output import ConfigOption, JsonOption, show
from sonoloop.jobs.progress import counted
from sonoloop.jobs.runs import ray_session, stage, start_run
from sonoloop.platform.archive.index_object import IndexConfig, index_object
from sonoloop.platform.errors import CountError, NothingToDoError, Reason
from sonoloop.platform.identity import pseudonym_key
from sonoloop.platform.records import CaseImage, CaseRecord, InstanceRecord, content_id
from sonoloop.platform.tables import read_cases, read_instances
from sonoloop.platform.workspace import ObjectInfo, Store


class IndexSummary(BaseModel):
    """Counts of one index run, and of the workspace after it."""

    objects: int
    unchanged: int
    indexed: int
    rejected: int
    rejected_by_reason: dict[str, int]
    cases: int
    images: int


def index(config: ConfigOption = "sonoloop.toml", json: JsonOption = False) -> None:
    """List the archive, group studies into cases, de-identify key frames."""
    show(run_index(load_config(config)), title="index", as_json=json)


def run_index(config: Config) -> IndexSummary:
    """Index what is new or changed in the archive.

    Raises:
        NothingToDoError: the archive holds no object, or none that can be read.
        StorageError: workspace or archive cannot be reached.
        CountError: objects in differ from rows out; nothing was written.
    """
    key = pseudonym_key()
    workspace, archive = config.open_workspace(), config.open_archive()
    known = {row.uri: row for row in read_instances(workspace)}
    listed = list(archive.list_objects())
    if not listed:
        raise NothingToDoError(f"the archive {archive.uri} holds no object; check the prefix")
    fresh = [info for info in listed if _is_fresh(info, known.get(info.uri), config.index)]
    records: list[InstanceRecord] = []
    if fresh:
        with ray_session(config.ray), stage("index") as counts:
            records = _open_all(fresh, archive, workspace, config.index, key)
            counts.update(objects=len(records))
        _write(config, workspace, records, known)
    return _summary(workspace, num_listed=len(listed), records=records)


def _is_fresh(info: ObjectInfo, row: InstanceRecord | None, config: IndexConfig) -> bool:
    """Whether an object is new, changed, or was rejected for something that may be otherwise now."""
    if row is None or row.etag != info.etag or row.retryable:
        return True
    return row.reason == Reason.PHI_SUSPECTED and config.deidentify.pictures_are_clean


def _open_all(
    fresh: list[ObjectInfo], archive: Store, workspace: Store, config: IndexConfig, key: SecretStr
) -> list[InstanceRecord]:
    now = datetime.now(UTC)

    def open_batch(batch: dict[str, Any]) -> pa.Table:
        columns = zip(batch["uri"], batch["size_bytes"], batch["etag"], strict=True)
        infos = (ObjectInfo(str(uri), int(size), str(etag)) for uri, size, etag in columns)
        rows = [
            index_object(info, archive=archive, workspace=workspace, config=config, key=key, now=now)
            for info in infos
        ]
        counter.add.remote(len(rows), sum(row.status == "rejected" for row in rows))
        return InstanceRecord.table(rows)

    objects = pa.Table.from_pylist([vars(info) for info in fresh])
    num_blocks = max(1, len(fresh) // config.batch_size)
    dataset = ray.data.from_arrow(objects).repartition(num_blocks)
    with counted("index", len(fresh)) as counter:
        opened = dataset.map_batches(open_batch, batch_size=config.batch_size)
        records = [InstanceRecord.from_row(row) for row in opened.iter_rows()]
    if sorted(r.uri for r in records) != sorted(i.uri for i in fresh):
        raise CountError(f"{len(fresh)} objects went in, {len(records)} rows came out; nothing was written")
    return records


def _write(
    config: Config, workspace: Store, records: list[InstanceRecord], known: dict[str, InstanceRecord]
) -> None:
    """Cases first: the instances table says what is done, so a run killed in between is done again."""
    run_id = f"index-{content_id(*sorted(f'{r.uri}@{r.etag}' for r in records), length=12)}"
    run = start_run(workspace, "index", run_id=run_id, key=run_id, config=config)
    before = [known[record.uri] for record in records if record.uri in known]
    touched = {record.case_id for record in (*records, *before) if record.case_id}
    everything = {**known, **{record.uri: record for record in records}}.values()
    cases = group_cases(
        (r for r in everything if r.case_id in touched),
        config.index,
        indexed_at=max(record.indexed_at for record in records),
    )
    workspace.write_table(CaseRecord.table(cases), "cases", f"{run_id}.parquet")
    workspace.write_table(InstanceRecord.table(records), "instances", f"{run_id}.parquet")
    rejected = sum(record.status == "rejected" for record in records)
    run.finished(workspace, {"objects": len(records), "rejected": rejected, "cases": len(cases)})


def group_cases(
    instances: Iterable[InstanceRecord], config: IndexConfig, *, indexed_at: datetime
) -> list[CaseRecord]:
    """One case per study; an instance stored twice counts once, and images are capped per case.

    Every instance gives its first key frame before any gives its second, so that no long loop crowds out
    the other series of its study.
    """
    by_case: dict[str, dict[str, InstanceRecord]] = defaultdict(dict)
    for row in sorted(instances, key=lambda row: row.uri):
        if row.case_id is not None:
            by_case[row.case_id][row.instance_id] = row
    return [
        _case(case_id, list(rows.values()), config, indexed_at) for case_id, rows in sorted(by_case.items())
    ]


def _case(case_id: str, rows: list[InstanceRecord], config: IndexConfig, indexed_at: datetime) -> CaseRecord:
    ranked: list[tuple[int, int, CaseImage]] = []
    for place, row in enumerate(rows):
        ranked.extend((turn, place, image) for turn, image in enumerate(row.images))
    kept = sorted(
        sorted(ranked, key=lambda item: item[:2])[: config.max_images], key=lambda item: (item[1], item[0])
    )
    hints = Counter(row.organ_hint for row in rows if row.organ_hint)
    return CaseRecord(
        case_id=case_id,
        patient_key=rows[0].patient_key or case_id,
        organ_hint=next(iter(hints)) if len(hints) == 1 else None,
        scanner=next((row.scanner for row in rows if row.scanner), None),
        images=tuple(image for _, _, image in kept),
        indexed_at=indexed_at,
    )


def _summary(workspace: Store, *, num_listed: int, records: list[InstanceRecord]) -> IndexSummary:
    cases = read_cases(workspace)
    if not cases:
        reasons = Counter(str(row.reason) for row in read_instances(workspace))
        raise NothingToDoError(f"no object of the archive could be read as ultrasound: {dict(reasons)}")
    rejected = [record for record in records if record.status == "rejected"]
    return IndexSummary(
        objects=num_listed,
        unchanged=num_listed - len(records),
        indexed=len(records) - len(rejected),
        rejected=len(rejected),
        rejected_by_reason=dict(Counter(str(record.reason) for record in rejected)),
        cases=len(cases),
        images=sum(len(case.images) for case in cases),
    )
