"""COCO annotations, read by pycocotools."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pycocotools.coco import COCO
from tests.platform.export.made import result

from sonoloop.platform.export.coco import coco_json

NO_LESION = {"organ": "liver", "parenchyma": "normal", "lesion": "absent"}


def _read(text: str, folder: Path) -> COCO:
    path = folder / "annotations.json"
    path.write_text(text)
    return COCO(str(path))


def test_boxes_are_pixels_of_their_image_and_of_the_organ_s_lesion(tmp_path: Path) -> None:
    coco = _read(coco_json([result()]), tmp_path)
    found = coco.loadAnns(coco.getAnnIds())
    assert [annotation["bbox"] for annotation in found] == [[16, 24, 64, 24], [64, 48, 64, 48]]
    assert [annotation["area"] for annotation in found] == [64 * 24, 64 * 48]
    assert coco.loadCats(found[0]["category_id"])[0]["name"] == "breast lesion"
    image = coco.loadImgs(found[1]["image_id"])[0]
    assert (image["file_name"], image["width"], image["height"]) == ("images/1.png", 128, 96)


def test_images_without_a_lesion_are_listed(tmp_path: Path) -> None:
    coco = _read(coco_json([result(NO_LESION, boxes=())]), tmp_path)
    assert len(coco.getImgIds()) == 2
    assert coco.getAnnIds() == []


def test_an_image_that_two_cases_share_is_listed_once_and_ids_stay_unique(tmp_path: Path) -> None:
    other = result()
    other = other.model_copy(update={"case": other.case.model_copy(update={"case_id": "other"})})
    coco = _read(coco_json([result(), other]), tmp_path)
    assert len(coco.getImgIds()) == 2
    assert len(coco.getAnnIds()) == 4


@pytest.mark.parametrize(("reviewed", "status"), [(True, "reviewed"), (False, "draft")])
def test_each_image_says_whether_a_person_saw_it(reviewed: bool, status: str) -> None:
    images = json.loads(coco_json([result(reviewed=reviewed)]))["images"]
    assert {image["status"] for image in images} == {status}
