"""The phantom archive: studies with their truth, made in parallel, one at a time in a fixed order."""

from __future__ import annotations

import multiprocessing
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from datetime import date, timedelta

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, field_validator

from sonoloop.platform.lexicon import ORGANS, Organ, entities_json
from sonoloop.platform.phantoms.case import PhantomCase, draw_case
from sonoloop.platform.phantoms.dicom import StudyHeader, write_instance
from sonoloop.platform.phantoms.draws import PHANTOM_ORGANS
from sonoloop.platform.phantoms.encode import SYNTAXES
from sonoloop.platform.phantoms.patients import deterministic_uid, draw_patient
from sonoloop.platform.phantoms.render import RenderedFrame, render
from sonoloop.platform.phantoms.scanners import SCANNER_KINDS, ScannerKind
from sonoloop.platform.phantoms.truth import TruthBox, TruthRecord

STUDIES_PER_RETURN = 12
"""Of so many consecutive studies the last one belongs to the patient of the one before it."""
SECOND_STILL_FRAME = 6
LOOP_FRAMES = (8, 12)


class PhantomGroup(BaseModel):
    """So many studies of one organ on one kind of machine."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    organ: Organ
    scanner: ScannerKind
    count: int = Field(ge=0, description="studies")

    @field_validator("organ")
    @classmethod
    def _can_be_drawn(cls, organ: Organ) -> Organ:
        if organ not in PHANTOM_ORGANS:
            raise ValueError(f"there is no phantom of this organ, only of {', '.join(PHANTOM_ORGANS)}")
        return organ


class PhantomConfig(BaseModel):
    """What the phantom archive holds."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    seed: int = Field(ge=0, description="the same seed and groups give the same archive, byte for byte")
    groups: tuple[PhantomGroup, ...] = Field(description="in the order in which they are made")
    cine_share: float = Field(default=0.25, ge=0, le=1, description="share of studies that are a cine loop")
    second_still_share: float = Field(
        default=0.3, ge=0, le=1, description="share of the others with 2 stills"
    )
    workers: int = Field(default=2, ge=1, description="processes; 1 stays in the caller's process")


@dataclass(frozen=True)
class PhantomStudy:
    """The objects of one study, keys relative to the archive's root, and what is true about it."""

    files: tuple[tuple[str, bytes], ...]
    truth: TruthRecord


def build_studies(config: PhantomConfig) -> Iterator[PhantomStudy]:
    """Make the studies in the order of the groups.

    With ``workers`` above 1 they are made in spawned processes, a few ahead of the caller; a script that
    calls this needs the usual ``if __name__ == "__main__"`` guard.
    """
    places = [(group.organ, group.scanner, index) for group in config.groups for index in range(group.count)]
    if config.workers == 1 or len(places) < 2:
        yield from (build_study(config, number, *place) for number, place in enumerate(places))
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(config.workers, mp_context=context) as pool:
        waiting: deque[Future[PhantomStudy]] = deque()
        for number, place in enumerate(places):
            waiting.append(pool.submit(build_study, config, number, *place))
            if len(waiting) > 4 * config.workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def build_study(
    config: PhantomConfig, number: int, organ: Organ, scanner: ScannerKind, index: int
) -> PhantomStudy:
    """Render and write one study.

    Args:
        config: The archive it belongs to.
        number: The study's place in the whole archive, from 0; decides the patient.
        organ: Organ.
        scanner: Kind of machine.
        index: The study's number within its group, from 0; with the seed it decides the case.
    """
    case = draw_case(config.seed, index, organ, scanner)
    header = _header(config, number, case)
    rng = np.random.default_rng([config.seed, index, ORGANS.index(organ), SCANNER_KINDS.index(scanner), 13])
    syntax = SYNTAXES[int(rng.integers(len(SYNTAXES)))]
    files: list[tuple[str, bytes]] = []
    boxes: list[TruthBox] = []
    for place, moments in enumerate(_moments(config, rng), start=1):
        sop_uid = deterministic_uid(header.study_uid, place)
        frames = [render(case, moment) for moment in moments]
        data = write_instance(case, header, sop_uid, place, frames, syntax)
        files.append((f"{header.study_uid}/{place:03d}.dcm", data))
        boxes += _boxes(sop_uid, frames)
    return PhantomStudy(tuple(files), _truth(case, header, boxes))


def _moments(config: PhantomConfig, rng: np.random.Generator) -> list[range]:
    """The frames of each instance: one loop, one still or two."""
    if rng.random() < config.cine_share:
        return [range(int(rng.integers(LOOP_FRAMES[0], LOOP_FRAMES[1] + 1)))]
    num_stills = 2 if rng.random() < config.second_still_share else 1
    return [range(place * SECOND_STILL_FRAME, place * SECOND_STILL_FRAME + 1) for place in range(num_stills)]


def _header(config: PhantomConfig, number: int, case: PhantomCase) -> StudyHeader:
    is_return = number % STUDIES_PER_RETURN == STUDIES_PER_RETURN - 1
    person = number - 1 if is_return else number
    first = _organ_of(config, person)
    study_uid = deterministic_uid("study", config.seed, case.organ, case.scanner, case.index)
    return StudyHeader(
        patient=draw_patient(config.seed, person, first),
        study_uid=study_uid,
        series_uid=deterministic_uid(study_uid, "series"),
        study_date=date(2021, 1, 4) + timedelta(days=3 * number % 1400),
        study_id=f"{number + 1:05d}",
    )


def _organ_of(config: PhantomConfig, number: int) -> Organ:
    for group in config.groups:
        if number < group.count:
            return group.organ
        number -= group.count
    raise ValueError("the archive has no study of this number")


def _boxes(sop_uid: str, frames: list[RenderedFrame]) -> list[TruthBox]:
    return [
        TruthBox(sop_uid=sop_uid, frame_index=place, x=box[0], y=box[1], width=box[2], height=box[3])
        for place, box in enumerate(frame.lesion for frame in frames)
        if box is not None
    ]


def _truth(case: PhantomCase, header: StudyHeader, boxes: list[TruthBox]) -> TruthRecord:
    return TruthRecord(
        study_uid=header.study_uid,
        organ=case.organ,
        findings=case.findings,
        impression=case.impression,
        entities=entities_json(case.entities),
        boxes=tuple(boxes),
    )
