"""What became of each held-out case: one row per case and model, the evidence that figures and gate rest on.

``CaseOutcome`` (``models/<name>/<version>/evaluations/<snapshot>.outcomes.parquet``). It holds no word of a
report.

| column | dtype | meaning |
|---|---|---|
| case_id, patient_key | string | the case and its patient |
| organ | string | of the review; null where it has no entities |
| scanner | string | manufacturer and model; null where the header names none |
| model_version, prompt_version | string | what drafted it |
| drafted | bool | there is a valid draft; without one the case counts as an empty draft |
| empty | bool | the draft lacks a word in one of the report's sections |
| said, wanted | list of string | ``organ.field=value`` of draft and review, as in entity macro-F1 |
| num_edits, num_fields | int32 | fields to be touched, of so many that draft or review have |
| edit_distance, rouge_l | double | of the reports, 0..1 |
| matched_words, said_words, wanted_words | int32 | what BLEU-1 adds up |
| box_ious | list of double | of each box of the review: the best overlap with a drafted one, 0..1 |
| confidence | double | mean probability of the judged values, 0..1; null where none was a choice |
| judged | list of struct | drafted values that were a choice: probability as decoded, calibrated, and kept |
| num_tokens | int32 | generated for the draft |
| seconds | double | of a model actor for one case, on average over the run that drafted it; null: not known |

``calibrated`` comes from a fit that saw nothing of the case's patient; it is null where too few values of
the model were judged for a fit, and ``confidence`` is then as decoded.
"""

from __future__ import annotations

from typing import Any, ClassVar, Self

import pyarrow as pa
from pydantic import BaseModel, ConfigDict

from sonoloop.platform import registry
from sonoloop.platform.records import Probability, Record
from sonoloop.platform.workspace import Store

_JUDGED = pa.struct([("probability", pa.float64()), ("calibrated", pa.float64()), ("kept", pa.bool_())])


class Judged(BaseModel):
    """A drafted value that was a choice, and whether the review has it too."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    probability: Probability
    calibrated: Probability | None
    kept: bool

    @property
    def sureness(self) -> float:
        """The probability as people see it: calibrated where possible."""
        return self.probability if self.calibrated is None else self.calibrated


class CaseOutcome(Record):
    """One held-out case, as one model drafted it."""

    ARROW: ClassVar[pa.Schema] = pa.schema(
        [
            ("case_id", pa.string()),
            ("patient_key", pa.string()),
            ("organ", pa.string()),
            ("scanner", pa.string()),
            ("model_version", pa.string()),
            ("prompt_version", pa.string()),
            ("drafted", pa.bool_()),
            ("empty", pa.bool_()),
            ("said", pa.list_(pa.string())),
            ("wanted", pa.list_(pa.string())),
            ("num_edits", pa.int32()),
            ("num_fields", pa.int32()),
            ("edit_distance", pa.float64()),
            ("rouge_l", pa.float64()),
            ("matched_words", pa.int32()),
            ("said_words", pa.int32()),
            ("wanted_words", pa.int32()),
            ("box_ious", pa.list_(pa.float64())),
            ("confidence", pa.float64()),
            ("judged", pa.list_(_JUDGED)),
            ("num_tokens", pa.int32()),
            ("seconds", pa.float64()),
        ]
    )
    case_id: str
    patient_key: str
    organ: str | None
    scanner: str | None
    model_version: str
    prompt_version: str
    drafted: bool
    empty: bool
    said: frozenset[str]
    wanted: frozenset[str]
    num_edits: int
    num_fields: int
    edit_distance: float
    rouge_l: float
    matched_words: int
    said_words: int
    wanted_words: int
    box_ious: tuple[float, ...]
    confidence: Probability | None
    judged: tuple[Judged, ...]
    num_tokens: int | None
    seconds: float | None

    def row(self) -> dict[str, Any]:
        """As `Record.row`; labels in order, so that the same outcomes give the same file."""
        return {**super().row(), "said": sorted(self.said), "wanted": sorted(self.wanted)}

    @property
    def is_usable(self) -> bool:
        """Whether a reader got a draft with something in both sections."""
        return self.drafted and not self.empty

    def judged_again(self, judged: tuple[Judged, ...]) -> Self:
        """The same with other verdicts on its values, and the confidence that follows from them."""
        sureness = [value.sureness for value in judged]
        confidence = sum(sureness) / len(sureness) if sureness else self.confidence
        return self.model_copy(update={"judged": judged, "confidence": confidence})


def write_outcomes(workspace: Store, snapshot: str, outcomes: list[CaseOutcome]) -> None:
    """Store the outcomes of one model on a snapshot's held-out cases; replaces those from before."""
    workspace.write_table(CaseOutcome.table(outcomes), *_place(outcomes[0].model_version, snapshot))


def read_outcomes(workspace: Store, model_version: str, snapshot: str) -> list[CaseOutcome] | None:
    """The stored outcomes, ordered by case id; ``None`` where that model was not measured on that snapshot.

    Raises:
        StorageError: the store refuses, or the file is no table of this version of sonoloop.
    """
    try:
        path = workspace.path(*_place(model_version, snapshot))
        rows = workspace.read_table(CaseOutcome.ARROW, path).to_pylist()
    except FileNotFoundError:
        return None
    return sorted(map(CaseOutcome.from_row, rows), key=lambda outcome: outcome.case_id)


def _place(model_version: str, snapshot: str) -> tuple[str, ...]:
    return (*registry.place_of(model_version), "evaluations", f"{snapshot}.outcomes.parquet")
