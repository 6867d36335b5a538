"""Lesion boxes as a COCO data set: ``annotations.json`` beside a folder of the key frames.

Boxes become pixels of their image, ``[left, top, width, height]``, origin top left. Categories are a lesion
of each organ. Images without a lesion are listed without annotation, so that a detector learns from them too;
whether an image was reviewed or only drafted stands in its ``status``.

Source: cocodataset.org, "Data format", object detection.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from sonoloop.platform.export.results import Result
from sonoloop.platform.lexicon import ORGANS

CATEGORIES = {organ: place for place, organ in enumerate(ORGANS, start=1)}
"""Category ids; organs are only ever appended, so an id keeps its meaning."""


def coco_json(results: Iterable[Result]) -> str:
    """The annotations of these results, which must come in a fixed order; images are named by content."""
    images: dict[str, dict[str, Any]] = {}
    annotations: list[dict[str, Any]] = []
    for result in results:
        for image in result.case.images:
            entry = {
                "id": len(images) + 1,
                "file_name": f"images/{image.image_key.rpartition('/')[2]}",
                "width": image.width,
                "height": image.height,
                "case_id": result.case.case_id,
                "instance_id": image.instance_id,
                "frame_index": image.frame_index,
                "status": result.status,
            }
            images.setdefault(image.image_key, entry)
        annotations += _annotations(result, images, len(annotations))
    categories = [
        {"id": place, "name": f"{organ} lesion", "supercategory": "lesion"}
        for organ, place in CATEGORIES.items()
    ]
    data = {"images": list(images.values()), "annotations": annotations, "categories": categories}
    return json.dumps(data, indent=1, ensure_ascii=False)


def _annotations(result: Result, images: dict[str, dict[str, Any]], before: int) -> list[dict[str, Any]]:
    organ = result.organ
    if organ is None:
        return []
    found: list[dict[str, Any]] = []
    for box in result.boxes:
        image = images[result.case.images[box.image_index].image_key]
        width = min(box.width, 1 - box.x) * image["width"]
        height = min(box.height, 1 - box.y) * image["height"]
        edges = (box.x * image["width"], box.y * image["height"], width, height)
        found.append(
            {
                "id": before + len(found) + 1,
                "image_id": image["id"],
                "category_id": CATEGORIES[organ],
                "bbox": [round(edge, 3) for edge in edges],
                "area": round(width * height, 3),
                "iscrowd": 0,
                "segmentation": [],
            }
        )
    return found
