"""The figures of a run: what its watch makes of the stages' reports, and the two files that keep them.

``runs/<run_id>/progress.json`` is a `RunProgress`, written every few seconds while the run is under way;
``runs/<run_id>/summary.json`` is a `RunSummary`, written once when it is done. Seconds per case are of one
actor, on the clock, from the beginning of a unit to its end.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sonoloop.jobs.progress import Standing
from sonoloop.jobs.runs import read_runs
from sonoloop.platform.workspace import Store

M = TypeVar("M", bound=BaseModel)

PROGRESS, SUMMARY = "progress.json", "summary.json"
SILENT_AFTER_S = 60.0
"""A run whose progress was not written for so long is gone, asleep or cut off from its workspace."""


class Figures(BaseModel):
    """A run as its stages report it. What is not known yet is null."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    cases: int = Field(default=0, description="of the run")
    done: int = Field(default=0, description="drafted or rejected, those of interrupted attempts included")
    done_now: int = Field(default=0, description="of these, by this process and its workers")
    rejected_by_reason: dict[str, int] = Field(default={}, description="of those done now")
    tokens: int = Field(default=0, description="generated now")
    seconds: float = Field(default=0, description="since the first model actor was ready")
    cases_per_s: float | None = Field(default=None, description="since then")
    tokens_per_s: float | None = Field(default=None, description="since then")
    recent_cases_per_s: float | None = Field(default=None, description="over the last units")
    left_s: float | None = Field(default=None, description="until the last case, at the recent rate")
    actors: int = Field(default=0, description="model actors that were ready")
    actor_utilisation: float | None = Field(
        default=None, description="share of their time, from ready to the end of their last unit, in units"
    )
    preparers: int = Field(default=0, description="preparers that did a unit")
    preparer_utilisation: float | None = Field(default=None, description="the same, of preparers")
    draft_s_per_case: float | None = None
    prepare_s_per_case: float | None = None
    advice: str | None = Field(default=None, description="what would keep the model actors busy")


class RunProgress(BaseModel):
    """``runs/<run_id>/progress.json``."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    run_id: str
    model_version: str
    prompt_version: str
    updated_at: datetime
    figures: Figures
    cost: float | None = Field(default=None, description="so far, earlier attempts included; null: no prices")
    currency: str

    def standing(self) -> Standing:
        """The run as it is shown."""
        f = self.figures
        rejected = sum(f.rejected_by_reason.values())
        by_reason = ", ".join(f"{count} {reason}" for reason, count in sorted(f.rejected_by_reason.items()))
        busy = "" if f.actor_utilisation is None else f" {f.actor_utilisation:.0%} busy"
        notes = (
            "closing" if f.cases and f.done == f.cases else "",
            f"{rejected} rejected ({by_reason})" if rejected else "",
            f"{f.actors} {'actor' if f.actors == 1 else 'actors'}{busy}" if f.actors else "",
            f"{f.tokens_per_s:.0f} tokens/s" if f.tokens_per_s else "",
            money(self.cost, self.currency) if self.cost is not None else "",
        )
        return Standing(f.done, f.cases, f.recent_cases_per_s, f.left_s, tuple(filter(None, notes)))

    def silent_s(self, now: datetime) -> float | None:
        """Seconds without a sign of life; None for a run that gives some."""
        age = (now - self.updated_at).total_seconds()
        return age if age > SILENT_AFTER_S else None

    def write(self, workspace: Store) -> None:
        """Store it; a run has one writer."""
        workspace.write_bytes(self.model_dump_json(indent=2).encode(), "runs", self.run_id, PROGRESS)

    @classmethod
    def read(cls, workspace: Store, run_id: str) -> Self | None:
        """That of a run; None where it has not written any, or one of another version of sonoloop."""
        return _read(cls, workspace, run_id, PROGRESS)


class RunSummary(BaseModel):
    """``runs/<run_id>/summary.json``: ``cases = drafted + rejected``."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    run_id: str
    model_version: str
    prompt_version: str
    config_hash: str
    versions: dict[str, str] = Field(description="of the engines")
    finished_at: datetime
    cases: int
    drafted: int
    rejected: int
    rejected_by_reason: dict[str, int]
    units: int
    cases_per_unit: int
    cases_now: int = Field(description="cases done since the run was last begun or resumed")
    seconds: float = Field(description="since then")
    cases_per_s: float | None = Field(description="since the first model actor was ready")
    tokens: int = Field(description="in the drafts of the run")
    tokens_per_s: float | None
    actors: int
    actor_utilisation: float | None
    draft_s_per_case: float | None
    preparers: int
    prepare_s_per_case: float | None
    grain_s: float | None = Field(description="seconds of work that a crash of an actor loses, at most")
    cost: float | None
    currency: str
    advice: str | None

    def write(self, workspace: Store) -> None:
        """Store it; a run has one writer."""
        workspace.write_bytes(self.model_dump_json(indent=2).encode(), "runs", self.run_id, SUMMARY)

    @classmethod
    def read(cls, workspace: Store, run_id: str) -> Self | None:
        """That of a run; None where it has none, or one of another version of sonoloop."""
        return _read(cls, workspace, run_id, SUMMARY)


def together(summaries: Sequence[RunSummary]) -> dict[str, Any]:
    """What the runs of one command took: seconds and cost added up, shares and rates on average."""
    by_seconds = [(summary, summary.seconds) for summary in summaries]
    by_cases = [(summary, float(summary.cases_now)) for summary in summaries]
    costs = [summary.cost for summary in summaries if summary.cost is not None]
    return {
        "seconds": sum(summary.seconds for summary in summaries),
        "cases_per_s": _mean(by_seconds, "cases_per_s") or 0.0,
        "tokens_per_s": _mean(by_seconds, "tokens_per_s"),
        "actor_utilisation": _mean(by_seconds, "actor_utilisation"),
        "draft_s_per_case": _mean(by_cases, "draft_s_per_case"),
        "prepare_s_per_case": _mean(by_cases, "prepare_s_per_case"),
        "cost": sum(costs) if costs else None,
        "advice": next((summary.advice for summary in reversed(summaries) if summary.advice), None),
    }


def _mean(weighted: Sequence[tuple[RunSummary, float]], name: str) -> float | None:
    found = [(getattr(summary, name), weight) for summary, weight in weighted]
    known = [(value, weight) for value, weight in found if value is not None and weight]
    total = sum(weight for _, weight in known)
    return sum(value * weight for value, weight in known) / total if total else None


class Rates(BaseModel):
    """What one case took in a finished run."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    run_id: str
    draft_s_per_case: float = Field(description="of a model actor")
    prepare_s_per_case: float = Field(description="of a preparer")
    cost_per_case: float | None = None
    currency: str


def last_rates(workspace: Store, model_version: str) -> Rates | None:
    """What a case took in the newest finished run of a model; None where none tells.

    Raises:
        StorageError: the workspace cannot be reached.
    """
    for run in reversed(read_runs(workspace)):
        if (run.verb, run.state) != ("annotate", "finished"):
            continue
        found = RunSummary.read(workspace, run.run_id)
        if found is None or found.model_version != model_version:
            continue
        if found.draft_s_per_case is None or found.prepare_s_per_case is None:
            continue
        return Rates(
            run_id=run.run_id,
            draft_s_per_case=found.draft_s_per_case,
            prepare_s_per_case=found.prepare_s_per_case,
            cost_per_case=found.cost / found.cases if found.cost is not None else None,
            currency=found.currency,
        )
    return None


def money(amount: float, currency: str) -> str:
    """An amount with its currency, cents only where they matter."""
    return f"{amount:.{0 if amount >= 1000 else 2 if amount >= 1 else 4}f} {currency}"


def now() -> datetime:
    """This moment, as the files have it."""
    return datetime.now(UTC)


def _read(kind: type[M], workspace: Store, run_id: str, name: str) -> M | None:
    try:
        return kind.model_validate_json(workspace.read_bytes("runs", run_id, name))
    except (FileNotFoundError, ValidationError):
        return None
