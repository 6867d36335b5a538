"""What the benchmark of drafting runs on: a model folder, and a workspace with cases and key frames."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.workload import build_model
from sonoloop.jobs.config import Config, load_config
from sonoloop.jobs.init import run_init
from sonoloop.model import nano
from sonoloop.model.checkpoint import save_model
from sonoloop.model.configuration import read_config
from sonoloop.model.frames import Pixels
from sonoloop.platform.archive.deidentify.png import encode_png
from sonoloop.platform.lexicon import Organ
from sonoloop.platform.phantoms.case import draw_case
from sonoloop.platform.phantoms.render import render
from sonoloop.platform.phantoms.scanners import ScannerKind
from sonoloop.platform.records import CaseImage, CaseRecord
from sonoloop.platform.workspace import Store

KINDS: tuple[tuple[Organ, ScannerKind], ...] = (
    ("breast", "A"),
    ("thyroid", "A"),
    ("liver", "B"),
    ("kidney", "B"),
)
NUM_RENDERED = 32
"""Different phantom frames; each key frame is one of them with noise of its own."""
WIDE_VOCABULARY = 100_096


@dataclass(frozen=True)
class Layout:
    """How a side uses the machine: engines, and threads of each."""

    engines: int
    threads: int

    def __str__(self) -> str:
        return f"{self.engines} x {self.threads} thread{'s' if self.threads > 1 else ''}"


@dataclass(frozen=True)
class Work:
    """One thing to measure.

    Attributes:
        model: ``nano``, or ``0.3b`` with random weights.
        num_cases: Cases unless the command says otherwise.
        cases_per_unit: Cases of one engine call, on every side.
        frames: Key frames of the cases, in turn.
        width: Of a key frame, pixels; its sides are as 4 to 3.
        report_tokens: Limit of a report: random weights never end one.
        layouts: What is tried on two cores.
    """

    model: str
    num_cases: int
    cases_per_unit: int
    frames: tuple[int, ...]
    width: int
    report_tokens: int
    layouts: tuple[Layout, ...]


WORKS: dict[str, Work] = {
    "nano": Work("nano", 256, 16, (1, 1, 2, 1, 2), 448, 512, (Layout(1, 1), Layout(2, 1))),
    "0.3b": Work("0.3b", 32, 4, (1, 1, 2, 1, 2), 448, 24, (Layout(1, 2), Layout(2, 1))),
    "decode": Work("nano", 64, 4, (16,), 1024, 512, (Layout(1, 1), Layout(2, 1))),
}


def make_workspace(folder: Path, work: Work, num_cases: int) -> Config:
    """A workspace whose model is the champion and whose cases have no draft; returns its configuration."""
    (folder / "archive").mkdir(parents=True)
    workspace = Store(str(folder / "workspace"))
    Path(workspace.root).mkdir()
    frames = _phantom_frames(work.width)
    cases = [_case(workspace, frames, number, work) for number in range(num_cases)]
    workspace.write_table(CaseRecord.table(cases), "cases", "0.parquet")
    config = write_config(folder, work, work.layouts[0])
    run_init(config, model_folder=None if work.model == "nano" else _random_folder(folder / "model"))
    return config


def write_config(folder: Path, work: Work, layout: Layout) -> Config:
    """The settings of one layout, as ``folder/sonoloop.toml``."""
    sections: dict[str, dict[str, str | int | float]] = {
        "": {"workspace": str(folder / "workspace"), "archive": str(folder / "archive")},
        "model": {"name": "echovlm-nano" if work.model == "nano" else "random"},
        "ray": {"num_cpus": layout.engines * layout.threads + 3},
        "annotate": {
            "cases_per_unit": work.cases_per_unit,
            "num_actors": layout.engines,
            "cpus_per_actor": layout.threads,
            "max_rejected_share": 1.0,
        },
        "annotate.engine": {"engine": "transformers", "max_report_tokens": work.report_tokens},
    }
    lines = []
    for name, values in sections.items():
        lines += [f"[{name}]"] * bool(name) + [
            f"{key} = {json.dumps(value)}" for key, value in values.items()
        ]
    (folder / "sonoloop.toml").write_text("\n".join(lines))
    return load_config(str(folder / "sonoloop.toml"))


def _case(workspace: Store, frames: Sequence[Pixels], number: int, work: Work) -> CaseRecord:
    rng = np.random.default_rng(number)
    images = []
    for index in range(work.frames[number % len(work.frames)]):
        frame = frames[(number * 7 + index) % len(frames)]
        key, data = encode_png(np.clip(frame + rng.integers(0, 3, frame.shape), 0, 255).astype(np.uint8))
        workspace.write_bytes(data, key)
        height, width = frame.shape
        images.append(
            CaseImage(image_key=key, instance_id="i", frame_index=index, width=width, height=height)
        )
    return CaseRecord(
        case_id=f"case-{number:06d}",
        patient_key=f"patient-{number:06d}",
        organ_hint=KINDS[number % len(KINDS)][0],
        scanner=None,
        images=tuple(images),
        indexed_at=datetime.now(UTC),
    )


def _phantom_frames(width: int) -> list[Pixels]:
    frames = []
    for number in range(NUM_RENDERED):
        organ, scanner = KINDS[number % len(KINDS)]
        grey = render(draw_case(3, number, organ, scanner)).pixels
        picture = Image.fromarray(grey).convert("L").resize((width, width * 3 // 4))
        frames.append(np.asarray(picture))
    return frames


def _random_folder(folder: Path) -> Path:
    """A model of 0.3 B parameters that writes noise, with nano's tokenizer and pixel budget."""
    folder.mkdir()
    model = build_model("0.25b", torch.float32, "cpu", vocab=WIDE_VOCABULARY)
    small = read_config(nano.folder())
    for name in ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id"):
        setattr(model.config, name, getattr(small, name))
    save_model(model, folder)
    for path in nano.folder().iterdir():
        if path.suffix in (".json", ".jinja") and not (folder / path.name).exists():
            shutil.copy(path, folder / path.name)
    return folder
