"""A workspace as two rounds of the loop leave it, made of records, not of work: every room has something."""

from __future__ import annotations

import io
import json
import random
from datetime import UTC, datetime, timedelta

from PIL import Image
from said import said, write_said
from tests.jobs.outcomes import outcomes, store
from tests.jobs.test_calibrating import NORMAL, row

from sonoloop.jobs.annotating.figures import RunSummary
from sonoloop.jobs.config import Config
from sonoloop.jobs.drift import run_drift
from sonoloop.jobs.finetuning.curve import StepRecord, write_curve
from sonoloop.jobs.gating.config import GateConfig
from sonoloop.jobs.promote import decide
from sonoloop.jobs.runs import start_run
from sonoloop.jobs.snapshot import SnapshotRow
from sonoloop.platform import registry
from sonoloop.platform.archive.rows import FrameRecord, InstanceRecord
from sonoloop.platform.lexicon import LesionBox, Organ, entities_json
from sonoloop.platform.phantoms.case import PhantomCase, draw_case
from sonoloop.platform.phantoms.render import render
from sonoloop.platform.records import CaseImage, CaseRecord, DraftRecord, ReviewRecord
from sonoloop.platform.registry import Aliases
from sonoloop.platform.sorted_rooms import CASES, DRAFTS, write_sorted
from sonoloop.platform.tasks import TaskRecord, write_tasks
from sonoloop.platform.workspace import Store

NAME = "echovlm-nano"
VERSIONS = (f"{NAME}/first", f"{NAME}/second", f"{NAME}/third")
ORGANS: tuple[Organ, ...] = ("liver", "thyroid", "kidney", "breast")
START = datetime(2026, 1, 10, tzinfo=UTC)
NUM_CASES, NUM_WITH_PICTURES = 120, 24


def fill(config: Config) -> Store:
    """Write all of it; the same each time."""
    workspace, luck = config.open_workspace(), random.Random(0)
    cases = [draw_case(7, number, ORGANS[number % 4], "A") for number in range(NUM_CASES)]
    _archive(workspace)
    _cases(workspace, cases)
    _drafts_and_reviews(config, workspace, cases, luck)
    _models(config, workspace)
    run_drift(config)
    return workspace


def _archive(workspace: Store) -> None:
    states = ["indexed"] * 5 * NUM_CASES + ["rejected"] * 60
    reasons = (["not-ultrasound"] * 30 + ["truncated"] * 20 + ["document"] * 10)[::-1]
    instances = [
        InstanceRecord.model_validate(
            {
                "instance_id": f"{number:04}",
                "uri": f"{number:04}",
                "status": state,
                "reason": reasons.pop() if state == "rejected" else None,
                "etag": "e",
                "size_bytes": 1,
                "indexed_at": START,
            }
        )
        for number, state in enumerate(states)
    ]
    frames = [
        FrameRecord.model_validate(
            {
                "instance_id": f"{number:04}",
                "case_id": "c",
                "status": "rejected",
                "reason": "phi-suspected",
                "rules_version": "1",
                "prepared_at": START,
            }
        )
        for number in range(12)
    ]
    workspace.write_table(InstanceRecord.table(instances), "instances", "0.parquet")
    workspace.write_table(FrameRecord.table(frames), "frames", "0.parquet")


def _cases(workspace: Store, cases: list[PhantomCase]) -> None:
    rows = []
    for number, case in enumerate(cases):
        key = f"images/{number:04}.png"
        if number >= NUM_CASES - NUM_WITH_PICTURES:  # the newest ones, which a gallery shows
            data = io.BytesIO()
            Image.fromarray(render(case).pixels).save(data, "PNG")
            workspace.write_bytes(data.getvalue(), key)
        image = CaseImage(image_key=key, instance_id="i", frame_index=0, width=448, height=336)
        rows.append(
            CaseRecord(
                case_id=_id(number),
                patient_key=f"p{number}",
                organ_hint=case.organ,
                scanner=("Acme One", "Acme Two")[number % 2],
                images=(image,),
                indexed_at=_at(number),
            )
        )
    write_sorted(workspace, CASES, rows, "0.parquet")


def _id(number: int) -> str:
    return f"case{number:04}"


def _at(number: int) -> datetime:
    """Four months of cases."""
    return START + timedelta(days=number)


def _drafts_and_reviews(
    config: Config, workspace: Store, cases: list[PhantomCase], luck: random.Random
) -> None:
    for part, version in enumerate(VERSIONS[:2]):
        run_id, skill = f"annotate-{part}", 0.5 + 0.3 * part
        numbers = range(part * NUM_CASES // 2, (part + 1) * NUM_CASES // 2)
        begun = start_run(workspace, "annotate", run_id=run_id, key="k", config=config)
        begun.model_copy(update={"started_at": _at(numbers[0]), "state": "finished"}).write(workspace)
        _summary(version, run_id, len(numbers)).write(workspace)
        drafts, reviews, tasks = [], [], []
        for number in numbers:
            draft = _draft(number, cases[number], version, run_id, luck, skill)
            drafts.append(draft)
            if draft.status == "rejected":
                continue
            tasks.append(_task(number, version))
            reviews += _reviews(number, cases[number], draft, luck)
        write_sorted(workspace, DRAFTS, drafts, run_id, "0.parquet")
        write_tasks(workspace, tasks)
        write_said(workspace, *reviews)


def _draft(
    number: int, case: PhantomCase, version: str, run_id: str, luck: random.Random, skill: float
) -> DraftRecord:
    common = {"case_id": _id(number), "run_id": run_id, "model_version": version, "config_hash": "h"}
    common |= {"prompt_version": "p"}
    if number % 20 == 3:
        return DraftRecord(**common, status="rejected", reason="invalid-output", stage="draft")
    is_right = luck.random() < skill
    other = draw_case(8, number, case.organ, "A")
    said_by = case if is_right else other
    probability = luck.uniform(0.75, 0.98) if is_right else luck.uniform(0.4, 0.85)
    flat = [name for name in said_by.entities.flat() if name != "organ"]
    return DraftRecord(
        **common,
        status="draft",
        findings=said_by.findings,
        impression=said_by.impression,
        entities=entities_json(said_by.entities),
        boxes=_boxes(said_by),
        confidence=probability,
        value_probabilities=dict.fromkeys(flat, probability),
        num_tokens=60,
    )


def _boxes(case: PhantomCase) -> tuple[LesionBox, ...]:
    found = (
        render(case).lesion
        if case.lesion is not None and case.index >= NUM_CASES - NUM_WITH_PICTURES
        else None
    )
    if found is None:
        return ()
    x, y, width, height = found
    return (LesionBox(image_index=0, x=x, y=y, width=width, height=height),)


def _task(number: int, version: str) -> TaskRecord:
    return TaskRecord(
        project="p",
        case_id=_id(number),
        task_id=number,
        purpose="control" if number % 10 == 0 else "draft",
        strategy="random",
        num_readers=1,
        model_version=version,
        state="sent",
        written_at=_at(number),
    )


def _reviews(number: int, case: PhantomCase, draft: DraftRecord, luck: random.Random) -> list[ReviewRecord]:
    is_control = number % 10 == 0
    fields = [*case.entities.flat(), "findings", "impression"]
    same = draft.entities == entities_json(case.entities)
    kind = "manual" if is_control else "prediction" if same else "prediction-changed"
    values = {
        "findings": case.findings,
        "impression": case.impression,
        "entities": entities_json(case.entities),
        "boxes": _boxes(case),
        "project": "p",
        "created_at": _at(number),
        "updated_at": _at(number),
        "model_version": None if is_control else draft.model_version,
        "origins": dict.fromkeys(fields, kind),
    }
    times = {"ann": 95 if is_control else 30 if same else 60, "bob": 70}
    readers = ("ann", "bob") if number % 5 == 0 else ("ann",)
    return [
        said(_id(number), reader, lead_time_s=times[reader] * luck.uniform(0.7, 1.4), **values)
        for reader in readers
    ]


def _summary(version: str, run_id: str, num_cases: int) -> RunSummary:
    return RunSummary(
        run_id=run_id,
        model_version=version,
        prompt_version="p",
        config_hash="h",
        versions={},
        finished_at=START,
        cases=num_cases,
        drafted=num_cases - 3,
        rejected=3,
        rejected_by_reason={"invalid-output": 3},
        units=4,
        cases_per_unit=32,
        cases_now=num_cases,
        seconds=480.0,
        cases_per_s=num_cases / 480,
        tokens=60 * num_cases,
        tokens_per_s=7.5,
        actors=1,
        actor_utilisation=0.93,
        draft_s_per_case=7.0,
        preparers=1,
        prepare_s_per_case=0.2,
        grain_s=224.0,
        cost=1.25,
        currency="EUR",
        advice=None,
    )


def _models(config: Config, workspace: Store) -> None:
    for at, version in enumerate(VERSIONS):
        lineage = {
            "base": VERSIONS[at - 1] if at else "built in",
            "published_at": (START + timedelta(days=30 * at)).isoformat(),
            **({"snapshot": "s1", "run": f"finetune-{at}"} if at else {}),
        }
        workspace.write_bytes(json.dumps(lineage).encode(), "models", version, "lineage.json")
    test = [case.case_id for case in outcomes(60, right=1)]
    rows = [
        row(case_id, NORMAL, f"patient of {case_id}").model_copy(update={"split": "test"}) for case_id in test
    ]
    rows += [row("t", NORMAL, "patient of t").model_copy(update={"split": "train"})]
    workspace.write_table(SnapshotRow.table(rows), "training", "s1", "reviews.parquet")
    manifest = {"frozen_at": START.isoformat(), "num_train": 64}
    workspace.write_bytes(json.dumps(manifest).encode(), "training", "s1", "snapshot.json")
    for right, version in zip((0.5, 0.8, 0.78), VERSIONS, strict=True):
        store(workspace, "s1", outcomes(60, right=right, version=version))
    for number in (1, 2):
        run_id = f"finetune-{number}"
        done = start_run(workspace, "finetune", run_id=run_id, key="k", config=config)
        done.finished(workspace, {"cases": 64})
        write_curve(workspace, run_id, _curve(0.05 * number))
    registry.set_aliases(workspace, NAME, {"champion": VERSIONS[1]}, expected=Aliases(), by="promote")
    for old, new in ((0, 1), (1, 2)):
        decide(workspace, VERSIONS[old], VERSIONS[new], "s1", GateConfig()).write(workspace)


def _curve(floor: float) -> list[StepRecord]:
    return [
        StepRecord(
            step=step,
            epoch=step // 40,
            loss=floor + 2.2 / (1 + step / 12),
            aux_loss=0.1,
            learning_rate=1e-3,
            gradient_norm=1.0,
            num_tokens=2000,
            seconds=1.0,
            workers=1,
            least_used_expert_share=0.4 - floor + step / 600 if step % 40 == 39 else None,
            expert_balance=0.9 + step / 2000 if step % 40 == 39 else None,
        )
        for step in range(120)
    ]
