"""``sonoloop index``: list the archive, open what is new, write instances, key frames and cases."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated

import typer
from pydantic import BaseModel

from sonoloop.jobs.config import Config, load_config
from sonoloop.jobs.indexing.cases import CaseCounts, make_cases, mark_duplicates
from sonoloop.jobs.indexing.compacting import compact
from sonoloop.jobs.indexing.headers import IndexRun, index_headers
from sonoloop.jobs.output import ConfigOption, JsonOption, show
from sonoloop.jobs.runs import Run, ray_session, stage, start_run
from sonoloop.platform.archive.deidentify.quarantine import read_keeps, read_releases
from sonoloop.platform.archive.pages import HeaderCounts
from sonoloop.platform.errors import NothingToDoError
from sonoloop.platform.identity import pseudonym_key
from sonoloop.platform.sorted_rooms import CASES
from sonoloop.platform.tables import count_rejections


class IndexSummary(BaseModel):
    """Counts of one index run, and of the workspace's cases after it.

    ``objects`` + ``members`` = ``unchanged`` + ``indexed`` + ``rejected`` + ``containers``.
    """

    objects: int
    members: int
    unchanged: int
    indexed: int
    rejected: int
    rejected_by_reason: dict[str, int]
    containers: int
    gone: int
    bytes_read: int
    requests: int
    cases_made: int
    cases: int
    images: int


def index(
    config: ConfigOption = "sonoloop.toml",
    manifest: Annotated[
        str | None,
        typer.Option(help="S3 Inventory (manifest.json), CSV or Parquet to take instead of a listing."),
    ] = None,
    headers_only: Annotated[
        bool, typer.Option("--headers-only", help="Read headers into instances; make no frames and cases.")
    ] = False,
    retry_rejected: Annotated[
        bool, typer.Option("--retry-rejected", help="Take only what was rejected but may succeed now.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """List the archive, group studies into cases, de-identify key frames."""
    settings = load_config(config)
    if manifest is not None:
        taken = settings.index.model_copy(update={"manifest": manifest})
        settings = settings.model_copy(update={"index": taken})
    summary = run_index(settings, headers_only=headers_only, retry_rejected=retry_rejected)
    show(summary, title="index", as_json=json)


def run_index(config: Config, *, headers_only: bool = False, retry_rejected: bool = False) -> IndexSummary:
    """Index what is new or changed in the archive; any part of it that was interrupted is done again.

    Args:
        config: The configuration.
        headers_only: Stop when the headers are in ``instances/``.
        retry_rejected: Instead of listing, take the objects and frames whose rejection may have passed.

    Raises:
        NothingToDoError: the archive holds no object, or none that can be read.
        StorageError: workspace or archive cannot be reached.
        ConfigError: the manifest cannot be used.
        CountError: objects in differ from rows out.
    """
    key = pseudonym_key()
    workspace, archive = config.open_workspace(), config.open_archive()
    now = datetime.now(UTC)
    run_id = f"index-{now:%Y%m%dT%H%M%S}-{secrets.token_hex(3)}"
    releases, keeps = read_releases(workspace), read_keeps(workspace)
    run = IndexRun(archive, workspace, config.index, key, now, run_id, releases, retry_rejected, keeps)
    record = _Record(config, run)
    headers, cases = HeaderCounts(), CaseCounts()
    with ray_session(config.ray):
        with stage("index: headers") as counts:
            for page in index_headers(run):
                headers.add(page)
                record.begin_if(page.indexed + page.rejected + page.containers + page.gone)
            counts.update(objects=headers.objects, rejected=headers.rejected)
        if not headers.objects and not retry_rejected:
            raise NothingToDoError(f"the archive {archive.uri} holds no object; check the prefix")
        if not headers_only:
            with stage("index: cases") as counts:
                for chunk in make_cases(run):
                    cases.add(chunk)
                    record.begin_if(chunk.made)
                mark_duplicates(run, cases.newest)
                compact(run.workspace, CASES)
                counts.update(cases=cases.cases, images=cases.images)
    summary = _summary(headers, cases)
    record.finish(summary)
    if not headers_only and not cases.cases:
        reasons = count_rejections(workspace)
        raise NothingToDoError(f"no object of the archive could be read as ultrasound: {reasons}")
    return summary


@dataclass
class _Record:
    """The run's entry in ``runs/``; a run that changes nothing has none."""

    config: Config
    run: IndexRun
    entry: Run | None = None

    def begin_if(self, num_changes: int) -> None:
        if self.entry is None and num_changes:
            run_id = self.run.run_id
            self.entry = start_run(self.run.workspace, "index", run_id=run_id, key=run_id, config=self.config)

    def finish(self, summary: IndexSummary) -> None:
        if self.entry is not None:
            values = summary.model_dump()
            counts = {name: value for name, value in values.items() if isinstance(value, int)}
            self.entry.finished(self.run.workspace, counts)


def _summary(headers: HeaderCounts, cases: CaseCounts) -> IndexSummary:
    """An object is rejected by its header or by its pixels, never by both."""
    return IndexSummary(
        objects=headers.objects,
        members=headers.members,
        unchanged=headers.unchanged,
        indexed=headers.indexed - cases.rejected,
        rejected=headers.rejected + cases.rejected,
        rejected_by_reason=dict(headers.reasons + cases.reasons),
        containers=headers.containers,
        gone=headers.gone,
        bytes_read=headers.bytes_read,
        requests=headers.requests,
        cases_made=cases.made,
        cases=cases.cases,
        images=cases.images,
    )
