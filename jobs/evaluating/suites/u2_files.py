"""Reading U2-BENCH: eight folders of TSV files, one question with its picture in base64 for each row.

Columns that count: ``dataset_name, img_data, patient_id, prompt, anatomy_location, classification_task,
class_label, options, seg_channel_name, gt_bbox, keypoints, measurement, caption, report``. Sources: the data
set's card (DolphinAI/u2-bench) and its published scorers (gurenolun/Dolphin-ai-bench).

| task | folder | reference |
|---|---|---|
| DD, VRA | disease_diagnosis, view_recognition_and_assessment | ``class_label``, one of ``options`` |
| LL, OD | lesion_localisation, organ_detection | where the centre of ``gt_bbox`` lies, one of ten words |
| KD | keypoint_detection | where the point of ``keypoints`` lies |
| CVE | clinical_value_estimation | the number in ``measurement``, with the data set's published range |
| RG, CG | report_generation, caption_generation | ``report``, else ``caption``; ``caption`` |
"""

from __future__ import annotations

import base64
import csv
import hashlib
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from sonoloop.jobs.evaluating.items import Item, item_or_rejection
from sonoloop.jobs.evaluating.suites import u2_references as references
from sonoloop.jobs.evaluating.suites.u2_prompts import prompt_of
from sonoloop.platform.errors import NothingToDoError, Reason, RejectedError
from sonoloop.platform.storage_errors import storage_errors
from sonoloop.platform.workspace import Store

TASKS = {
    "disease_diagnosis": "DD",
    "view_recognition_and_assessment": "VRA",
    "lesion_localisation": "LL",
    "organ_detection": "OD",
    "keypoint_detection": "KD",
    "clinical_value_estimation": "CVE",
    "report_generation": "RG",
    "caption_generation": "CG",
}
"""Folder to task."""
MAX_FIELD_BYTES = 2**28
"""Of one cell; the largest masks take 22 MB."""
_NOTHING = {"", "nan", "none", "null"}
"""What an empty cell reads as; as a class, ``none`` is one."""
Row = dict[str, str]


@dataclass(frozen=True)
class U2File:
    """One TSV file of the benchmark.

    Attributes:
        store: Where it lies.
        path: For the store's file system.
        name: As places carry it: folder and file.
        task: Of all its rows.
    """

    store: Store
    path: str
    name: str
    task: str

    def items(self) -> Iterator[Item]:
        """One for each row."""
        for number, row in enumerate(self._rows()):
            place = f"{self.name}#{number}"
            yield item_or_rejection(place, self.task, "", partial(_item, place, self.task, row))

    def _rows(self) -> Iterator[Row]:
        csv.field_size_limit(MAX_FIELD_BYTES)
        with (
            storage_errors(self.store.uri),
            self.store.fs.open_input_stream(self.path) as raw,
            io.TextIOWrapper(raw, encoding="utf-8-sig", newline="") as text,
        ):
            for row in csv.DictReader(text, delimiter="\t", restval=""):
                cells = {
                    name: value.strip() for name, value in row.items() if isinstance(value, str) and name
                }
                yield {
                    name: "" if value.lower() in _NOTHING and name != "class_label" else value
                    for name, value in cells.items()
                }


def u2_files(store: Store) -> list[U2File]:
    """The benchmark's files below a folder.

    Raises:
        NothingToDoError: there is none in a folder of a known task.
    """
    found = []
    for info in store.list_objects():
        path = info.uri.removeprefix("s3://")
        folders, _, name = path.rpartition("/")
        task = next((folder for folder in reversed(folders.split("/")) if folder in TASKS), None)
        if task and name.lower().endswith(".tsv"):
            found.append(U2File(store, path, f"{task}/{name}", TASKS[task]))
    if not found:
        raise NothingToDoError(
            f"{store.uri} holds no .tsv file in a folder of U2-BENCH ({', '.join(TASKS)}); check --path"
        )
    return found


def _item(place: str, task: str, row: Row) -> Item:
    """A row as an item.

    Raises:
        RejectedError: its picture, its reference or its options cannot be read.
    """
    found = _REFERENCES[task](row)
    group = row.get("dataset_name", "")
    if task in ("DD", "VRA") and row.get("classification_task"):
        group = f"{group}/{row['classification_task']}"
    return Item(
        place=place,
        task=task,
        group=group,
        turns=(("user", prompt_of(task, row, found.options)),),
        images=(_picture(row.get("img_data", "")),),
        reference=found.reference,
        options=found.options,
        cluster=_cluster(row),
    )


def _picture(encoded: str) -> bytes:
    try:
        plain = "".join(encoded.rpartition("base64,")[2].split())
        return base64.b64decode(plain, validate=True)
    except ValueError as err:  # letters beyond ASCII are no `binascii.Error`
        raise RejectedError(Reason.NOT_AN_IMAGE, "img_data is no base64") from err


def _cluster(row: Row) -> str:
    """What the rows of one patient share; the identifier itself goes nowhere."""
    if not row.get("patient_id"):
        return ""
    whole = f"{row.get('dataset_name', '')}\n{row['patient_id']}"
    return hashlib.sha256(whole.encode()).hexdigest()[:16]


_REFERENCES: dict[str, Callable[[Row], references.Reference]] = {
    "DD": references.label,
    "VRA": references.label,
    "LL": references.box_location,
    "OD": references.box_location,
    "KD": references.point_location,
    "CVE": references.measurement,
    "RG": references.report,
    "CG": references.caption,
}
