"""``sonoloop export``: cleaned DICOM, and results as DICOM SR, FHIR, COCO or JSON lines."""

from __future__ import annotations

import json as jsonlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Annotated

import pyarrow as pa
import typer
from pydantic import BaseModel

from sonoloop.jobs.config import Config, load_config
from sonoloop.jobs.exporting import Tally, chosen_cases, instances_of, outcomes_of, results_in, write_units
from sonoloop.jobs.output import ConfigOption, JsonOption, show
from sonoloop.jobs.runs import ray_session, stage
from sonoloop.platform.archive.archived import ArchivedInstances
from sonoloop.platform.archive.deidentify.quarantine import read_releases
from sonoloop.platform.archive.rows import InstanceRecord
from sonoloop.platform.errors import ConfigError, CountError, NothingToDoError
from sonoloop.platform.export.coco import coco_json
from sonoloop.platform.export.config import ExportFormat
from sonoloop.platform.export.exporter import Exporter
from sonoloop.platform.export.lines import case_line, line_schema
from sonoloop.platform.export.output import writing
from sonoloop.platform.export.report import ReportWork
from sonoloop.platform.export.results import Rejection, Result
from sonoloop.platform.identity import pseudonym_key
from sonoloop.platform.workspace import Store, store_of

REPORTS_AT_ONCE = 20_000
"""Each lot costs a look at all instances."""


class ExportSummary(BaseModel):
    """What was written where; ``units`` (instances for DICOM, else cases) = ``written`` + ``rejected``."""

    format: ExportFormat
    out: str
    units: int
    written: int
    written_by_status: dict[str, int]
    rejected: int
    rejected_by_reason: dict[str, int]


def export(
    format: Annotated[ExportFormat, typer.Option("--format", "-f", help="What to write.")],
    out: Annotated[str, typer.Option(help="A folder or an s3:// URI to write to.")],
    config: ConfigOption = "sonoloop.toml",
    cases: Annotated[
        Path | None, typer.Option(help="File with one case id a line; all cases without it.")
    ] = None,
    reviewed_only: Annotated[
        bool, typer.Option("--reviewed-only", help="Leave out cases that nobody reviewed yet.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Write cleaned images, or results; drafts are marked as such."""
    summary = run_export(load_config(config), format, out, case_file=cases, reviewed_only=reviewed_only)
    show(summary, title="export", as_json=json)


def run_export(
    config: Config,
    kind: ExportFormat,
    out: str,
    *,
    case_file: Path | None = None,
    reviewed_only: bool = False,
) -> ExportSummary:
    """Export all cases, or those of a file; the same call again writes the same files.

    A review counts before a draft, and of drafts the champion's. What is not reviewed is marked as a draft
    in every format. What could not be exported stands in ``<format>/rejected.jsonl`` with its reason.

    Raises:
        NothingToDoError: there is no case, or nothing could be exported.
        ConfigError: the case file or the target cannot be used.
        StorageError: workspace, archive or target cannot be reached.
        CountError: units in differ from written and rejected ones.
    """
    workspace, target = config.open_workspace(), _target(config, out)
    cases = chosen_cases(workspace, case_file)
    outcomes = outcomes_of(config, workspace, cases, reviewed_only=reviewed_only)
    with stage("export") as counts, writing(target, kind, "rejected.jsonl") as rejected_file:
        tally = Tally(rejected_file)
        if kind is ExportFormat.DICOM:
            exported = _with_results(outcomes) if reviewed_only else cases
            units = _write_images(config, target, workspace, exported, tally)
        else:
            units = len(cases)
            _write_results(config, target, workspace, results_in(outcomes, tally), kind, tally)
        written, rejected = tally.written.total(), tally.rejected.total()
        counts.update(units=units, written=written, rejected=rejected)
    if units != written + rejected:
        raise CountError(
            f"{units} units went in, {written} were written and {rejected} rejected; export again when "
            "nothing is indexed meanwhile"
        )
    if not written:
        raise NothingToDoError(
            f"nothing could be exported: {dict(tally.rejected)}; see {kind}/rejected.jsonl"
        )
    return ExportSummary(
        format=kind,
        out=target.uri,
        units=units,
        written=written,
        written_by_status=dict(tally.written),
        rejected=rejected,
        rejected_by_reason=dict(tally.rejected),
    )


def _target(config: Config, out: str) -> Store:
    target = store_of(out, config.s3)
    if f"{target.root}/".startswith(f"{store_of(config.archive, config.s3).root}/"):
        raise ConfigError("the target lies in the archive, what is exported would be indexed; choose another")
    if not target.is_s3:
        Path(target.root).mkdir(parents=True, exist_ok=True)
    target.check()
    return target


def _with_results(outcomes: Iterable[Result | Rejection]) -> pa.StringArray:
    return pa.array([one.case.case_id for one in outcomes if isinstance(one, Result)], pa.string())


def _write_images(
    config: Config, target: Store, workspace: Store, case_ids: pa.StringArray, tally: Tally
) -> int:
    exporter, units = _exporter(config, target, workspace), 0
    with ray_session(config.ray):
        for rows in instances_of(workspace, case_ids):
            units += len(rows)
            written = write_units(
                rows,
                exporter.write_instance,
                lambda row, err: Rejection.of("instance", row.instance_id, err),
            )
            for _, rejection in written:
                tally.count("cleaned", rejection)
    return units


def _write_results(
    config: Config,
    target: Store,
    workspace: Store,
    results: Iterator[Result],
    kind: ExportFormat,
    tally: Tally,
) -> None:
    if kind is ExportFormat.COCO:
        _write_coco(target, workspace, results, tally)
    elif kind is ExportFormat.JSONL:
        _write_lines(target, results, tally)
    else:
        _write_reports(config, target, workspace, results, kind, tally)


def _write_reports(
    config: Config,
    target: Store,
    workspace: Store,
    results: Iterator[Result],
    kind: ExportFormat,
    tally: Tally,
) -> None:
    exporter = _exporter(config, target, workspace)
    with ray_session(config.ray):
        while some := list(islice(results, REPORTS_AT_ONCE)):
            rows = _shown_instances(workspace, some)
            written = write_units(
                [ReportWork.of(result, rows) for result in some],
                lambda unit: exporter.write_report(unit, kind),
                lambda unit, err: Rejection.of("case", unit.result.case.case_id, err),
            )
            for unit, rejection in written:
                tally.count(unit.result.status, rejection)


def _shown_instances(workspace: Store, results: Sequence[Result]) -> dict[str, InstanceRecord]:
    """The instances that images of these cases are of, by id."""
    shown = {image.instance_id for result in results for image in result.case.images}
    case_ids = pa.array([result.case.case_id for result in results], pa.string())
    pages = instances_of(workspace, case_ids)
    return {row.instance_id: row for page in pages for row in page if row.instance_id in shown}


def _write_coco(target: Store, workspace: Store, results: Iterator[Result], tally: Tally) -> None:
    def copied() -> Iterator[Result]:
        for result in results:
            for image in result.case.images:
                place = ("coco", "images", image.image_key.rpartition("/")[2])
                if not target.exists(*place):
                    target.write_bytes(workspace.read_bytes(image.image_key), *place)
            tally.count(result.status, None)
            yield result

    target.write_bytes(coco_json(copied()).encode(), "coco", "annotations.json")


def _write_lines(target: Store, results: Iterator[Result], tally: Tally) -> None:
    with writing(target, "jsonl", "cases.jsonl") as file:
        for result in results:
            file.write(case_line(result).encode() + b"\n")
            tally.count(result.status, None)
    target.write_bytes(jsonlib.dumps(line_schema(), indent=1).encode(), "jsonl", "case.schema.json")


def _exporter(config: Config, target: Store, workspace: Store) -> Exporter:
    return Exporter(
        archived=ArchivedInstances(config.open_archive(), config.index, pseudonym_key()),
        out=target,
        config=config.export,
        deidentify=config.index.deidentify,
        language=config.annotate.engine.language,
        releases=read_releases(workspace),
    )
