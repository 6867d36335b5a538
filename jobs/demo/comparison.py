"""Round 0 beside round 1 against the truth, on cases that no training ever saw."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict, Field

from sonoloop.jobs.evaluating.described import described_draft
from sonoloop.model.calibration import calibration_error, judged_values, read_calibrator
from sonoloop.model.metrics import Described, Scores, num_edits, score
from sonoloop.model.prompts import PROMPT_VERSION
from sonoloop.platform.tables import read_drafts
from sonoloop.platform.workspace import Store

NOTHING = Described("", "", None, ())


class Round(BaseModel):
    """How one model's drafts stand against the truth."""

    model_config = ConfigDict(frozen=True)
    model_version: str
    scores: Scores
    edits_per_case: float
    ece_decoded: float | None = Field(
        default=None, description="calibration error of the drafted values; null where none was a choice"
    )
    ece_calibrated: float | None = Field(
        default=None, description="the same after the model's calibrator; null where it has none"
    )


class Comparison(BaseModel):
    """Both rounds on the same cases."""

    model_config = ConfigDict(frozen=True)
    kind: str
    before: Round
    after: Round


def compare(
    workspace: Store, versions: tuple[str, str], truth: Mapping[str, Described], *, kind: str
) -> Comparison:
    """Score the drafts of two model versions on the cases of ``truth``.

    Args:
        workspace: Holds the drafts.
        versions: The model of round 0 and of round 1.
        truth: Case id to what is true of the case.
        kind: What the cases have in common.
    """
    before, after = (measure(workspace, version, truth) for version in versions)
    return Comparison(kind=kind, before=before, after=after)


def measure(workspace: Store, version: str, truth: Mapping[str, Described]) -> Round:
    """How a version's drafts stand against the truth; a case without a draft counts as an empty one."""
    drafts = drafts_of(workspace, version, list(truth))
    references = list(truth.values())
    edits = [num_edits(draft or NOTHING, true) for draft, true in zip(drafts, references, strict=True)]
    decoded, calibrated = _calibration_errors(workspace, version, truth)
    return Round(
        model_version=version,
        scores=score(drafts, references),
        edits_per_case=sum(edits) / len(edits),
        ece_decoded=decoded,
        ece_calibrated=calibrated,
    )


def drafts_of(workspace: Store, version: str, case_ids: list[str]) -> list[Described | None]:
    """A version's drafts of these cases, ``None`` where it has none."""
    found = read_drafts(workspace, model_version=version, prompt_version=PROMPT_VERSION)
    by_case = {draft.case_id: draft for draft in found}
    return [described_draft(by_case.get(case_id)) for case_id in case_ids]


def _calibration_errors(
    workspace: Store, version: str, truth: Mapping[str, Described]
) -> tuple[float | None, float | None]:
    """As decoded and as calibrated; no calibrator has seen these cases, nobody has reviewed them."""
    found = read_drafts(workspace, model_version=version, prompt_version=PROMPT_VERSION)
    pairs = [(d, truth[d.case_id].entities) for d in found if d.case_id in truth]
    values = [v for draft, true in pairs if true for v in judged_values(draft, true, group=draft.case_id)]
    if not values:
        return None, None
    calibrator = read_calibrator(workspace, version, PROMPT_VERSION)
    return calibration_error(values), calibration_error(values, calibrator) if calibrator else None
