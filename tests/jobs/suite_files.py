"""Small files of the published benchmarks, as tests write them."""

from __future__ import annotations

import base64
import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

COLUMNS = [
    *("dataset_name", "img_data", "patient_id", "prompt", "anatomy_location", "classification_task"),
    *("class_label", "options", "seg_data", "seg_channel_name", "gt_bbox", "keypoints", "measurement"),
    *("caption", "report"),
]


def picture(seed: int = 0, side: int = 64) -> bytes:
    """A PNG of noise."""
    out = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 255, (side, side), dtype=np.uint8)
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def u2_row(**cells: Any) -> dict[str, Any]:
    """A row of U2-BENCH with a picture."""
    given = {"dataset_name": "21.Breast", "anatomy_location": "breast", **cells}
    return {"img_data": base64.b64encode(picture()).decode(), **given}


def write_u2(root: Path, folder: str, *rows: dict[str, Any], name: str = "21.tsv") -> Path:
    """One TSV file."""
    path = root / folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, delimiter="\t")
        writer.writeheader()
        writer.writerows(rows)
    return path


def whole_u2(root: Path) -> Path:
    """All eight tasks, one row each; two for the diagnosis."""
    choice = {"options": "['benign', 'malignant']"}
    write_u2(
        root,
        "disease_diagnosis",
        u2_row(class_label="benign", patient_id="p1", **choice),
        u2_row(class_label="malignant", patient_id="p1", **choice),
    )
    views = "{'View': ['2CH', '4CH'], 'Other': ['a', 'b']}"
    write_u2(
        root,
        "view_recognition_and_assessment",
        u2_row(class_label="4CH", classification_task="View", options=views),
    )
    box = "[{'lesion': [0.2, 0.2, 0.1, 0.1]}]"
    write_u2(root, "lesion_localisation", u2_row(gt_bbox=box))
    write_u2(root, "organ_detection", u2_row(gt_bbox=box, seg_channel_name="lesion"))
    write_u2(root, "keypoint_detection", u2_row(keypoints='{"valve": [0.5, 0.9]}'))
    write_u2(root, "clinical_value_estimation", u2_row(dataset_name="18.Heart", measurement="{'EF': 55}"))
    write_u2(root, "report_generation", u2_row(report="The liver is normal."))
    write_u2(root, "caption_generation", u2_row(caption="Lung with B-lines"))
    return root


def conversation(question: str, answer: str, *images: str, **fields: Any) -> dict[str, Any]:
    """A record of the published form."""
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    return {"id": "patient-7", "image": list(images), "conversations": turns, **fields}


def write_json(path: Path, value: Any) -> Path:
    """A JSON file, its folder made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")
    return path
