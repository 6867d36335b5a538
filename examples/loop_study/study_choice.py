"""What the reader gets next: the product's own choosing over the drafts of a workspace."""

from __future__ import annotations

from collections.abc import Collection

from sonoloop.jobs.config import Strategy
from sonoloop.jobs.pushing.candidates import CandidateTable, profile_of
from sonoloop.jobs.pushing.choosing import choose
from sonoloop.jobs.pushing.drafted import DraftedCases
from sonoloop.model.calibration import case_confidence, read_calibrator
from sonoloop.model.prompts import PROMPT_VERSION
from sonoloop.platform.duplicates import read_groups
from sonoloop.platform.tables import current_reviews
from sonoloop.platform.workspace import Store


def choose_cases(
    workspace: Store, version: str, strategy: Strategy, budget: int, *, pool: Collection[str], seed: int
) -> list[str]:
    """Cases that nobody has read, best first, as `sonoloop push` would choose them.

    Args:
        workspace: Holds drafts of the version, reviews and its calibrator.
        version: Of the model that drafts now.
        strategy: The only one.
        budget: Cases at most.
        pool: Cases that may be chosen.
        seed: Of the lots.
    """
    groups = read_groups(workspace)
    calibrator = read_calibrator(workspace, version, PROMPT_VERSION)
    read = current_reviews(workspace).keys()
    table = CandidateTable(seed, groups)
    for some in DraftedCases(workspace, version, PROMPT_VERSION).without_texts():
        for one in some:
            profile = profile_of(one.draft.parsed_entities(), one.case.scanner)
            if one.case.case_id in read:
                table.count_shown(profile)
            elif one.case.case_id in pool:
                table.add(one.case.case_id, case_confidence(one.draft, calibrator), profile)
    candidates = table.done()
    taken = table.numbers_of({groups[case_id] for case_id in read if case_id in groups})
    return [candidates.case_id(one.index) for one in choose(candidates, {strategy: 1}, budget, taken)]
