"""Synthetic outcomes of held-out cases, as good or bad as a test wants them."""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Any

from sonoloop.jobs.evaluating.figures import break_down
from sonoloop.jobs.evaluating.outcomes import CaseOutcome, Judged, write_outcomes
from sonoloop.jobs.evaluating.stored import Evaluation, write_evaluation
from sonoloop.model.metrics import Scores
from sonoloop.platform.workspace import Store

PROMPT = "p"
FIELDS, VALUES = ("echo", "margin", "shape", "size", "flow"), ("normal", "changed", "unclear")


def outcome(case_id: str, *, right: float, organ: str = "liver", version: str = "nano/new", **changes: Any):
    """A case whose drafted values are right with a chance of ``right``; the case says what is wanted."""
    truth, luck = random.Random(f"truth {case_id}"), random.Random(f"{version} {case_id}")
    wanted = {name: truth.choice(VALUES) for name in FIELDS}
    said = {
        name: value if luck.random() < right else luck.choice([other for other in VALUES if other != value])
        for name, value in wanted.items()
    }
    kept = [said[name] == wanted[name] for name in FIELDS]
    num_wrong = kept.count(False)
    values: dict[str, Any] = {
        "case_id": case_id,
        "patient_key": f"patient of {case_id}",
        "organ": organ,
        "scanner": "A",
        "model_version": version,
        "prompt_version": PROMPT,
        "drafted": True,
        "empty": False,
        "said": frozenset(f"{organ}.{name}={value}" for name, value in said.items()),
        "wanted": frozenset(f"{organ}.{name}={value}" for name, value in wanted.items()),
        "num_edits": num_wrong,
        "num_fields": len(FIELDS) + 3,
        "edit_distance": num_wrong / len(FIELDS),
        "rouge_l": 1 - num_wrong / len(FIELDS),
        "matched_words": 10 - num_wrong,
        "said_words": 10,
        "wanted_words": 10,
        "box_ious": (),
        "confidence": right,
        "judged": tuple(Judged(probability=right, calibrated=None, kept=one) for one in kept),
        "num_tokens": 50,
        "seconds": 1.0,
    }
    return CaseOutcome.model_validate({**values, **changes})


def outcomes(num: int, *, right: float, **changes: Any) -> tuple[CaseOutcome, ...]:
    """So many cases of as many patients."""
    return tuple(outcome(f"c{number:04}", right=right, **changes) for number in range(num))


def store(workspace: Store, snapshot: str, found: Iterable[CaseOutcome]) -> Evaluation:
    """Write what `sonoloop evaluate` leaves behind for a model with these outcomes."""
    cases = list(found)
    breakdown = break_down(cases)
    overall = breakdown.overall
    evaluation = Evaluation(
        model_version=cases[0].model_version,
        prompt_version=cases[0].prompt_version,
        snapshot=snapshot,
        scores=Scores(
            num_cases=len(cases),
            num_missing=sum(not case.drafted for case in cases),
            entity_macro_f1=overall.entity_macro_f1.value if overall.entity_macro_f1 else 0.0,
            num_entity_classes=overall.num_entity_classes,
            bleu_1=0.5,
            rouge_l=0.5,
            edit_distance=0.5,
            box_iou=None,
        ),
        edits_per_case=sum(case.num_edits for case in cases) / len(cases),
        breakdown=breakdown,
    )
    write_outcomes(workspace, snapshot, cases)
    write_evaluation(workspace, evaluation)
    return evaluation
