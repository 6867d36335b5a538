"""``sonoloop drift``: what of a month moved away from the months before, by scanner.

Looked at are a sample of pictures, how sure drafts are, what share of them readers change, and which entities
are drafted. The month is when something was indexed, drafted or corrected, not when a patient was seen.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated

import typer
from pydantic import BaseModel, Field

from sonoloop.jobs.config import Config, load_config
from sonoloop.jobs.drifting.gathering import add_pictures, gather
from sonoloop.jobs.drifting.report import DriftReport, compare
from sonoloop.jobs.output import ConfigOption, JsonOption, show
from sonoloop.jobs.runs import stage
from sonoloop.platform.errors import ConfigError, NothingToDoError


class DriftSummary(BaseModel):
    """What was compared, and what moved."""

    month: str
    reference: str = Field(description="months")
    compared: int
    too_few: int
    alarms: list[str]
    written: str


def drift(
    config: ConfigOption = "sonoloop.toml",
    month: Annotated[
        str | None, typer.Option(help="Month to look at, 2026-03; the latest with anything in it if absent.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Tell what moved in a month: pictures, confidence, corrections, entities, by scanner."""
    show(summary_of(run_drift(load_config(config), month=month)), title="drift", as_json=json)


def run_drift(config: Config, *, month: str | None = None) -> DriftReport:
    """Hold a month against those before it, and keep the result for `status`.

    Raises:
        ConfigError: the month is no month.
        NothingToDoError: there is nothing of that month, or of any.
        StorageError: the workspace cannot be reached.
    """
    if month is not None and not re.fullmatch(r"\d{4}-(0[1-9]|1[0-2])", month):
        raise ConfigError(f"expected a month like 2026-03, found {month!r}")
    workspace = config.open_workspace()
    with stage("drift") as counts:
        gathered, sample = gather(workspace, num_pictures=config.drift.pictures)
        months = sorted({*gathered.months(), *(group[0] for group in sample.groups())})
        if not months:
            raise NothingToDoError(f"{workspace.uri} holds no cases; run `sonoloop index` first")
        if month is None:
            month = months[-1]
        elif month not in months:
            raise NothingToDoError(
                f"nothing was indexed, drafted or corrected in {month}; the latest is {months[-1]}"
            )
        reference = tuple(one for one in months if one < month)[-config.drift.reference_months :]
        add_pictures(workspace, gathered, sample, (*reference, month))
        report = compare(gathered, month, reference, config.drift, now=datetime.now(UTC))
        report.write(workspace)
        counts.update(compared=len(report.compared), alarms=len(report.alarms))
    return report


def summary_of(report: DriftReport) -> DriftSummary:
    """What a person wants to know of a report."""
    return DriftSummary(
        month=report.month,
        reference=", ".join(report.reference) or "none: nothing was there before",
        compared=len(report.compared),
        too_few=report.too_few,
        alarms=[str(alarm) for alarm in report.alarms],
        written=f"drift/{report.month}.json",
    )
