"""One model on the held-out reviews of a snapshot: drafted where that is missing, scored, written down.

Drafts are made by `sonoloop annotate`, on the same engine and the same cluster, and only those of the
held-out cases are read.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from sonoloop.jobs.annotate import run_annotate
from sonoloop.jobs.annotating.figures import RunSummary
from sonoloop.jobs.annotating.selection import Selection
from sonoloop.jobs.calibrating import calibrate
from sonoloop.jobs.config import Config
from sonoloop.jobs.evaluating.described import described_draft, described_review
from sonoloop.jobs.evaluating.figures import break_down
from sonoloop.jobs.evaluating.held_out import rows_of
from sonoloop.jobs.evaluating.outcomes import write_outcomes
from sonoloop.jobs.evaluating.scoring import outcomes_of
from sonoloop.jobs.evaluating.stored import Evaluation, write_evaluation
from sonoloop.jobs.snapshot import SnapshotRow
from sonoloop.model.metrics import score
from sonoloop.platform.errors import ConflictError
from sonoloop.platform.records import DraftRecord
from sonoloop.platform.sorted_rooms import CASES, DRAFTS
from sonoloop.platform.tables import of_version
from sonoloop.platform.workspace import Store


def evaluate_version(
    config: Config, workspace: Store, version: str, *, snapshot: str, rows: Sequence[SnapshotRow]
) -> Evaluation:
    """Draft what is missing of the held-out cases, and measure; the outcomes of the cases are stored too.

    Raises:
        ConflictError: another run is drafting some of the cases.
    """
    case_ids = frozenset(row.case_id for row in rows)
    drafted = run_annotate(config, Selection(case_ids=case_ids), model=version)
    if drafted.held:
        raise ConflictError(
            f"{drafted.held} of the held-out cases are being drafted by another run; evaluate when it ends"
        )
    return measure(workspace, (version, config.annotate.prompt_version), snapshot=snapshot, rows=rows)


def measure(
    workspace: Store, versions: tuple[str, str], *, snapshot: str, rows: Sequence[SnapshotRow]
) -> Evaluation:
    """Score the drafts that are there; a case without one counts as not drafted.

    Args:
        workspace: Where drafts, cases and models lie.
        versions: Model and prompt version of the drafts.
        snapshot: Where the rows come from.
        rows: Held-out reviews, at least one.
    """
    case_ids = {row.case_id for row in rows}
    found = rows_of(workspace, DRAFTS, case_ids, where=of_version(*versions))
    drafts = {row["case_id"]: DraftRecord.from_row(row) for row in found}
    cases = rows_of(workspace, CASES, case_ids, columns=("scanner",))
    outcomes = outcomes_of(
        rows,
        drafts,
        versions=versions,
        scanners={row["case_id"]: row["scanner"] for row in cases},
        seconds=_seconds(workspace, {draft.run_id for draft in drafts.values()}),
    )
    breakdown = break_down(outcomes)
    evaluation = Evaluation(
        model_version=versions[0],
        prompt_version=versions[1],
        snapshot=snapshot,
        scores=score(
            [described_draft(drafts.get(row.case_id)) for row in rows],
            [described_review(row) for row in rows],
        ),
        edits_per_case=sum(outcome.num_edits for outcome in outcomes) / len(outcomes),
        calibration=calibrate(workspace, *versions, snapshot=snapshot, drafts=drafts, rows=rows),
        breakdown=breakdown,
    )
    write_outcomes(workspace, snapshot, outcomes)
    write_evaluation(workspace, evaluation)
    return evaluation


def _seconds(workspace: Store, run_ids: Collection[str]) -> dict[str, float | None]:
    """Of a model actor for one case, in each run that says so."""
    found = {run_id: RunSummary.read(workspace, run_id) for run_id in run_ids}
    return {run_id: summary.draft_s_per_case for run_id, summary in found.items() if summary}
