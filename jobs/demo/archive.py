"""The demo's archive: phantoms of a kind the model knows and of one it does not, real files, broken ones.

Truth lies under its own prefix. Only the scripted reader and the evaluation against the truth read it.
"""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import SecretStr

from sonoloop.jobs.demo.progress import Steps
from sonoloop.model.metrics import Described
from sonoloop.platform.identity import pseudonym
from sonoloop.platform.lexicon import LesionBox, parse_entities
from sonoloop.platform.phantoms.archive import PhantomConfig, build_studies
from sonoloop.platform.phantoms.extras import broken_objects, real_examples
from sonoloop.platform.phantoms.truth import TruthRecord
from sonoloop.platform.records import CaseRecord
from sonoloop.platform.workspace import Store

TRUTH_FILE = "truth.parquet"


def write_archive(archive: Store, truth: Store, config: PhantomConfig, steps: Steps) -> int:
    """Write all objects of the archive, and the truth apart from them; returns the number of objects."""
    truths: list[TruthRecord] = []
    num_objects = 0
    for study in build_studies(config):
        for key, data in study.files:
            archive.write_bytes(data, key)
            num_objects += 1
        truths.append(study.truth)
        steps.tick(f"{len(truths)} phantom studies")
    for key, data in (*real_examples(), *broken_objects()):
        archive.write_bytes(data, key)
        num_objects += 1
    truth.write_table(TruthRecord.table(truths), TRUTH_FILE)
    return num_objects


def read_truth(truth: Store, cases: Mapping[str, CaseRecord], key: SecretStr) -> dict[str, Described]:
    """What is true of each case, boxes on the images that the case holds.

    Args:
        truth: Where `write_archive` put it.
        cases: By case id; cases without truth (real files) are left out.
        key: The key under which the archive was indexed.
    """
    rows = [TruthRecord.from_row(row) for row in truth.read_tables(TruthRecord.ARROW).to_pylist()]
    by_case = {pseudonym(key, "study", row.study_uid): row for row in rows}
    return {
        case_id: _described(by_case[case_id], case, key)
        for case_id, case in cases.items()
        if case_id in by_case
    }


def _described(row: TruthRecord, case: CaseRecord, key: SecretStr) -> Described:
    places = {(image.instance_id, image.frame_index): i for i, image in enumerate(case.images)}
    boxes = []
    for box in row.boxes:
        place = places.get((pseudonym(key, "instance", box.sop_uid), box.frame_index))
        if place is not None:
            boxes.append(LesionBox(image_index=place, x=box.x, y=box.y, width=box.width, height=box.height))
    boxes.sort(key=lambda box: box.image_index)
    return Described(row.findings, row.impression, parse_entities(row.entities), tuple(boxes))
