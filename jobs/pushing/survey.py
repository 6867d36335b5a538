"""One look at all drafted cases: who has a task that shows something else by now, and who could get one."""

from __future__ import annotations

from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from sonoloop.jobs.pushing.candidates import Candidates, CandidateTable, profile_of
from sonoloop.jobs.pushing.drafted import DraftedCases
from sonoloop.jobs.pushing.ledger import Ledger
from sonoloop.jobs.pushing.showing import Showing


@dataclass
class Survey:
    """What there is to do; ids and short rows, no records.

    Attributes:
        candidates: Cases that never had a task, gold ones apart.
        gold: Gold cases that never had a task.
        changed: Cases whose task does not show what it should, by case id.
        taken_groups: Numbers of groups of near-duplicates of which a case has or had a task.
    """

    candidates: Candidates
    taken_groups: set[int]
    gold: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    num_unchanged: int = 0
    num_removed: int = 0
    num_other_organs: int = 0


def look(drafted: DraftedCases, ledger: Ledger, showing: Showing, groups: dict[str, str]) -> Survey:
    """Stream over all drafted cases once.

    Args:
        drafted: Those that may be shown.
        ledger: Who has or had a task.
        showing: How cases are shown.
        groups: Of near-duplicates, case id to group key.
    """
    table = CandidateTable(showing.config.seed, groups)
    gold, changed, num_unchanged, num_removed, num_other_organs = [], [], 0, 0, 0
    for some in drafted.without_texts():
        rows = ledger.rows(one.case.case_id for one in some)
        for one in some:
            case_id, row = one.case.case_id, rows.get(one.case.case_id)
            if not showing.has_page_for(one):
                num_other_organs += 1
                continue
            profile = profile_of(one.draft.parsed_entities(), one.case.scanner)
            if row is None:
                if case_id in showing.gold:
                    gold.append(case_id)
                else:
                    table.add(case_id, showing.score(one), profile)
                continue
            table.count_shown(profile)
            if row.state == "removed":
                num_removed += 1
            elif row.shown == showing.shown(one, row.purpose):
                num_unchanged += 1
            else:
                changed.append(case_id)
    taken = _taken_groups(groups, ledger) | {groups[case_id] for case_id in gold if case_id in groups}
    return Survey(
        table.done(), table.numbers_of(taken), gold, changed, num_unchanged, num_removed, num_other_organs
    )


def _taken_groups(groups: dict[str, str], ledger: Ledger) -> set[str]:
    known = pc.is_in(ledger.case_ids, value_set=pa.array(list(groups), pa.string()))
    return {groups[case_id] for case_id in ledger.case_ids.filter(known).to_pylist()}
