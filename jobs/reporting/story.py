"""The loop's story beside what readers say: how many came through, which models came of it, at what cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sonoloop.jobs.annotating.figures import RunSummary
from sonoloop.jobs.config import Config
from sonoloop.jobs.drifting.report import DriftReport, newest_report
from sonoloop.jobs.evaluating.stored import Evaluation
from sonoloop.jobs.finetuning.curve import read_curve
from sonoloop.jobs.gating.decision import Decision, read_decisions
from sonoloop.jobs.runs import Run, read_runs
from sonoloop.model.intervals import Estimate
from sonoloop.platform import registry
from sonoloop.platform.sorted_rooms import CASES, DRAFTS, INSTANCES, stream
from sonoloop.platform.tables import count_rejections, count_reviewed
from sonoloop.platform.workspace import Store


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Funnel(_Part):
    """From the archive to a model; each step counts what it has, not what it lost."""

    objects: int = Field(description="of the archive, those that are gone left out")
    instances: int = Field(description="of these, read as ultrasound")
    cases: int = Field(description="not withdrawn")
    drafted_cases: int = Field(description="with a draft of any version")
    drafts: int = Field(description="of all versions together")
    tasks: int = Field(description="cases that a project of Label Studio has")
    reviewed_cases: int
    training_cases: int = Field(description="reviews on the training side of the newest snapshot")
    models: int = Field(description="versions of the model line, the first one included")


class Measured(_Part):
    """A version on the held-out cases of a snapshot."""

    model_version: str
    snapshot: str
    num_cases: int
    entity_macro_f1: Estimate
    edits_per_case: Estimate | None
    calibration_error: Estimate | None


class Verdict(_Part):
    """What the gate decided of a challenger."""

    decided_at: datetime
    challenger: str
    champion: str
    promoted: bool
    reason: str
    failed: tuple[str, ...] = Field(description="names of the checks that did not pass")


class Training(_Part):
    """How a training went, and how evenly it used the experts."""

    run_id: str
    losses: tuple[tuple[int, float], ...] = Field(description="step and loss, at most some hundred of them")
    experts: tuple[tuple[int, float, float | None], ...] = Field(
        description="epoch, least used expert's share of an even share, balance"
    )


class Spent(_Part):
    """What a finished run of annotate took."""

    run_id: str
    model_version: str
    cases: int
    rejected: int
    seconds: float
    cases_per_s: float | None
    tokens_per_s: float | None
    actor_utilisation: float | None
    cost: float | None
    currency: str


class Story(_Part):
    """All of it."""

    funnel: Funnel
    objects_rejected: dict[str, int] = Field(description="objects and their frames, by reason")
    cases_rejected: dict[str, int] = Field(description="drafts that came to nothing, by reason")
    measured: tuple[Measured, ...]
    verdicts: tuple[Verdict, ...]
    trainings: tuple[Training, ...]
    spent: tuple[Spent, ...]
    drift: DriftReport | None


POINTS = 200
"""Of a loss curve, at most: what a page can show."""


def make_story(config: Config, workspace: Store) -> Story:
    """Read from every room of the workspace, a range of rows at a time.

    Raises:
        StorageError: the workspace cannot be read.
    """
    name, runs = config.model.name, read_runs(workspace)
    rejected: Counter[str] = Counter()
    return Story(
        funnel=_funnel(workspace, name, rejected),
        objects_rejected=_most_first(count_rejections(workspace)),
        cases_rejected=_most_first(rejected),
        measured=tuple(_measured(workspace, name)),
        verdicts=tuple(map(_verdict, read_decisions(workspace, name))),
        trainings=tuple(_trainings(workspace, runs)),
        spent=tuple(_spent(workspace, runs)),
        drift=newest_report(workspace),
    )


def _funnel(workspace: Store, name: str, rejected: Counter[str]) -> Funnel:
    states: Counter[str] = Counter()
    for table in stream(workspace, INSTANCES, columns=("status",)):
        states.update(table["status"].to_pylist())
    drafts, drafted_cases = _drafts(workspace, rejected)
    return Funnel(
        objects=states.total() - states["gone"],
        instances=states["indexed"],
        cases=sum(
            table.num_rows - pc.sum(table["withdrawn"].cast(pa.int64())).as_py()
            for table in stream(workspace, CASES, columns=("withdrawn",))
            if table.num_rows
        ),
        drafted_cases=drafted_cases,
        drafts=drafts,
        tasks=_tasks(workspace),
        reviewed_cases=count_reviewed(workspace),
        training_cases=_training_cases(workspace),
        models=len(registry.model_versions(workspace, name)),
    )


def _drafts(workspace: Store, rejected: Counter[str]) -> tuple[int, int]:
    """Drafts, and cases that have one: no case lies in two ranges."""
    num_drafts = num_cases = 0
    for table in stream(workspace, DRAFTS, columns=("case_id", "status", "reason")):
        is_draft = pc.equal(table["status"], "draft")
        found = table.filter(is_draft)
        rejected.update(table.filter(pc.invert(is_draft))["reason"].fill_null("unknown").to_pylist())
        num_drafts += found.num_rows
        num_cases += pc.count_distinct(found["case_id"]).as_py()
    return num_drafts, num_cases


def _tasks(workspace: Store) -> int:
    """Cases in the ledgers of tasks; a file of a ledger at a time, only ids are kept."""
    cases: set[str] = set()
    for path in workspace.table_paths("tasks"):
        table = workspace.read_table(pa.schema([("case_id", pa.string())]), path)
        cases.update(table["case_id"].to_pylist())
    return len(cases)


def _training_cases(workspace: Store) -> int:
    found = [
        registry.read_object(workspace, "training", one, "snapshot.json")
        for one in workspace.folders("training")
    ]
    newest = max(found, key=lambda one: str(one.get("frozen_at", "")), default={})
    return int(newest.get("num_train", 0))


def _measured(workspace: Store, name: str) -> Iterator[Measured]:
    for version in registry.model_versions(workspace, name):
        for snapshot, values in registry.read_evaluations(workspace, version).items():
            found = _evaluation(values)
            if found is not None:
                yield _of_evaluation(found, snapshot)


def _evaluation(values: dict[str, Any]) -> Evaluation | None:
    """One of the loop's own; a public suite's result is of another shape."""
    try:
        return Evaluation.model_validate(values)
    except ValidationError:
        return None


def _of_evaluation(found: Evaluation, snapshot: str) -> Measured:
    overall = found.breakdown.overall if found.breakdown is not None else None
    scores = found.scores
    plain = Estimate(value=scores.entity_macro_f1, n=scores.num_cases)
    return Measured(
        model_version=found.model_version,
        snapshot=snapshot,
        num_cases=scores.num_cases,
        entity_macro_f1=(overall.entity_macro_f1 if overall is not None else None) or plain,
        edits_per_case=overall.edits_per_case if overall is not None else None,
        calibration_error=overall.calibration_error if overall is not None else None,
    )


def _verdict(one: Decision) -> Verdict:
    return Verdict(
        decided_at=one.decided_at,
        challenger=one.challenger.model_version,
        champion=one.champion.model_version,
        promoted=one.promoted,
        reason=one.reason,
        failed=tuple(check.name for check in one.checks if not check.passed),
    )


def _trainings(workspace: Store, runs: list[Run]) -> Iterator[Training]:
    for run in runs:
        curve = read_curve(workspace, run.run_id) if run.verb == "finetune" else []
        if curve:
            every = -(-len(curve) // POINTS)
            yield Training(
                run_id=run.run_id,
                losses=tuple((step.step, step.loss) for step in curve[::every]),
                experts=tuple(
                    (step.epoch, step.least_used_expert_share, step.expert_balance)
                    for step in curve
                    if step.least_used_expert_share is not None
                ),
            )


def _spent(workspace: Store, runs: list[Run]) -> Iterator[Spent]:
    for run in runs:
        found = RunSummary.read(workspace, run.run_id) if run.verb == "annotate" else None
        if found is not None:
            yield Spent(**{name: getattr(found, name) for name in Spent.model_fields})


def _most_first(counts: dict[str, int] | Counter[str]) -> dict[str, int]:
    return dict(Counter(counts).most_common())
