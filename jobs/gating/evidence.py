"""What the gate looks at: both models' outcomes on the held-out cases, and what their trainings saw."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import pyarrow.dataset as ds

from sonoloop.jobs.evaluating.held_out import held_out, lineage_of
from sonoloop.jobs.evaluating.outcomes import CaseOutcome, read_outcomes
from sonoloop.jobs.finetuning.curve import read_curve
from sonoloop.jobs.tracing.ledgers import tasks_where
from sonoloop.platform.errors import NothingToDoError
from sonoloop.platform.workspace import Store


@dataclass(frozen=True)
class Evidence:
    """Two models on one snapshot.

    Attributes:
        champion: Its outcomes, ordered by case id.
        challenger: The same of the challenger.
        held_out: Cases that the snapshot holds out and that are new to both models.
        seen: Model version, of those that led to either model, to the held-out cases whose patient or
            pictures its training saw.
        expert_share: Of the challenger's last epoch; ``None`` where its training says nothing.
        chosen_by: What chose the held-out cases for reading, by the ledger of tasks, and how many each.
    """

    champion: tuple[CaseOutcome, ...]
    challenger: tuple[CaseOutcome, ...]
    held_out: frozenset[str]
    seen: Mapping[str, frozenset[str]]
    expert_share: float | None
    chosen_by: Mapping[str, int] = field(default_factory=dict)

    @property
    def patients(self) -> list[str]:
        """The patient of each case."""
        return [outcome.patient_key for outcome in self.challenger]


def read_evidence(workspace: Store, champion: str, challenger: str, snapshot: str) -> Evidence:
    """The stored evidence on two model versions.

    Raises:
        NothingToDoError: one of them was not evaluated on this snapshot.
        ConfigError: a snapshot is gone.
    """
    found = [read_outcomes(workspace, version, snapshot) for version in (champion, challenger)]
    if not found[0] or not found[1]:
        raise NothingToDoError(
            f"champion and challenger are not both evaluated on snapshot {snapshot}; run `sonoloop evaluate` "
            "first"
        )
    held = held_out(workspace, snapshot, champion, challenger)
    case_ids = frozenset(row.case_id for row in held.rows)
    return Evidence(
        champion=tuple(found[0]),
        challenger=tuple(found[1]),
        held_out=case_ids,
        seen=held.seen,
        expert_share=expert_share(workspace, challenger),
        chosen_by=chosen_by(workspace, case_ids),
    )


def expert_share(workspace: Store, model_version: str) -> float | None:
    """What the least used expert got in the last epoch of a training; ``None`` where nothing tells."""
    run_id = lineage_of(workspace, model_version).get("run")
    curve = read_curve(workspace, run_id) if run_id else []
    known = [step.least_used_expert_share for step in curve if step.least_used_expert_share is not None]
    return known[-1] if known else None


def chosen_by(workspace: Store, case_ids: Collection[str]) -> dict[str, int]:
    """What first chose these cases to be read, and how many each; cases that no task shows are in none.

    Raises:
        StorageError: the workspace cannot be read.
    """
    tasks = tasks_where(workspace, ds.field("case_id").isin(sorted(case_ids)))
    rows = tasks.sort_by([("written_at", "descending")]).select(["case_id", "strategy"]).to_pylist()
    first = {row["case_id"]: row["strategy"] for row in rows}
    return dict(Counter(first.values()).most_common())
