"""How a drafted case is shown in a project: with its draft or without, to how many people, how sure."""

from __future__ import annotations

import json
from dataclasses import dataclass

from sonoloop.jobs.config import PushConfig
from sonoloop.jobs.pushing.candidates import lot
from sonoloop.jobs.pushing.drafted import Drafted
from sonoloop.model.calibration import Calibrator, case_confidence, scaled_probabilities
from sonoloop.platform.labelstudio.config import LabelStudioConfig, configured_page
from sonoloop.platform.labelstudio.predictions import TaskData, marks_of, prediction_of, task_data
from sonoloop.platform.labelstudio.upload import CaseUpload
from sonoloop.platform.records import content_id
from sonoloop.platform.tasks import Purpose


@dataclass(frozen=True)
class Showing:
    """The rules of one push.

    Whether a case is a control, and how many people read it, is its own lot and nobody's choice: it never
    changes, falls on all strategies alike, and can be told again where the ledger's row was lost.

    Attributes:
        config: Shares and seed.
        labelstudio: Of the project and its page.
        calibrator: Of the drafts' confidence; as decoded without one.
        workspace_uri: Where the images lie.
        gold: Cases whose truth is known.
    """

    config: PushConfig
    labelstudio: LabelStudioConfig
    calibrator: Calibrator | None
    workspace_uri: str
    gold: frozenset[str]

    def has_page_for(self, one: Drafted) -> bool:
        """Whether the page has the fields of the drafted organ."""
        page = self.labelstudio.page
        return page == "universal" or page == one.draft.parsed_entities().organ

    def purpose(self, case_id: str) -> Purpose:
        """What a case is given out for."""
        if case_id in self.gold:
            return "gold"
        is_control = lot(self.config.seed, "control", case_id) < self.config.control_share
        return "control" if is_control else "draft"

    def num_readers(self, case_id: str) -> int:
        """How many people are to read a case."""
        return 2 if lot(self.config.seed, "readers", case_id) < self.config.agreement_share else 1

    def gold_place(self, case_id: str) -> float:
        """Where among the others a gold case is shown, 0 first and 1 last."""
        return lot(self.config.seed, "gold", case_id)

    def score(self, one: Drafted) -> float | None:
        """How sure the draft is, 0..1, calibrated where there is a calibrator."""
        return case_confidence(one.draft, self.calibrator)

    def shown(self, one: Drafted, purpose: Purpose) -> str:
        """Hash of what the task and its prediction hold; needs no text of the report."""
        draft, score = one.draft, self.score(one)
        parts = [json.dumps(self._data(one, purpose), sort_keys=True)]
        if purpose != "control":
            written_by = (draft.model_version, draft.prompt_version, draft.run_id, draft.attempts)
            parts += [*map(str, written_by), "" if score is None else f"{score:.6f}"]
        return content_id(*parts, length=16)

    def upload(self, one: Drafted, purpose: Purpose) -> CaseUpload:
        """The case as it is sent, its prediction checked against the page.

        Raises:
            ValueError: the draft does not fit the page.
        """
        page = configured_page(self.labelstudio)
        prediction = (
            None if purpose == "control" else prediction_of(one.draft, score=self.score(one), page=page)
        )
        return CaseUpload(self._data(one, purpose), prediction, self.num_readers(one.case.case_id))

    def model_version(self, one: Drafted, purpose: Purpose) -> str | None:
        """Whose prediction the task has then."""
        return None if purpose == "control" else one.draft.model_version

    def _data(self, one: Drafted, purpose: Purpose) -> TaskData:
        marks = {}
        if purpose != "control":
            probabilities = scaled_probabilities(one.draft, self.calibrator)
            marks = marks_of(one.draft, probabilities, below=self.config.mark_below)
        return task_data(one.case, self.workspace_uri, marks=marks)
