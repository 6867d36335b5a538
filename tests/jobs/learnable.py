"""A workspace in which there is something to learn: the built-in model, smooth random pictures, reviews."""

from __future__ import annotations

import io
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tests.jobs.test_snapshot import PATIENTS, review

from sonoloop.jobs.config import Config
from sonoloop.model import nano
from sonoloop.platform import registry
from sonoloop.platform.lexicon import Organ
from sonoloop.platform.records import CaseImage, CaseRecord, ReviewRecord
from sonoloop.platform.sorted_rooms import CASES, write_sorted
from sonoloop.platform.workspace import Store

NAME = "echovlm-nano"


def make_workspace(folder: Path, num_cases: int = 16) -> Store:
    """A local workspace with a champion and reviewed cases of one picture each."""
    folder.mkdir()
    store = Store(str(folder))
    random = np.random.default_rng(5)
    cases = [
        picture_case(store, random, number, (112, 84), patient=PATIENTS[number], organ="liver")
        for number in range(num_cases)
    ]
    write_sorted(store, CASES, cases, "cases.parquet")
    reviews = [
        review(
            case.case_id,
            annotation_id=number,
            task_id=number,
            findings="The liver is even." * (1 + number % 3),
        )
        for number, case in enumerate(cases)
    ]
    store.write_table(ReviewRecord.table(reviews), "reviews", "0.parquet")
    version = registry.publish(store, nano.folder(), NAME, lineage={"base": "built in"})
    registry.set_aliases(store, NAME, {"champion": version}, expected=registry.Aliases())
    return store


def picture_case(
    store: Store,
    random: np.random.Generator,
    number: int,
    size: tuple[int, int],
    *,
    patient: str,
    organ: Organ,
) -> CaseRecord:
    """A case of one smooth random picture of ``size`` (width and height, pixels), which is stored."""
    coarse = random.integers(0, 255, (12, 16), dtype=np.uint8)
    picture = Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    key = f"images/{number:02}.png"
    store.write_bytes(stream.getvalue(), key)
    image = CaseImage(image_key=key, instance_id="i", frame_index=0, width=size[0], height=size[1])
    return CaseRecord(
        case_id=f"case-{number:02}",
        patient_key=patient,
        organ_hint=organ,
        scanner=None,
        images=(image,),
        indexed_at=datetime(2026, 1, 1, tzinfo=UTC),
    )


def config_of(store: Store, **finetune: Any) -> Config:
    """A configuration that learns fast from few cases."""
    given = {
        "recipe": {"name": "full", "tasks": {"report": 1}},
        "epochs": 3,
        "batch_size": 4,
        "micro_batch_size": 2,
        "learning_rate": 1e-3,
        "test_share": 0.2,
        "cpus_per_worker": 0.5,
        **finetune,
    }
    return Config(workspace=store.uri, archive="archive", finetune=given)
