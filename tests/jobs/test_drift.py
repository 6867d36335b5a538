"""``sonoloop drift``: from the tables of a workspace to an alarm in ``sonoloop status``."""

from __future__ import annotations

import io
from datetime import UTC, datetime
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from said import entities, said, write_said

from sonoloop.jobs.config import Config
from sonoloop.jobs.drift import run_drift, summary_of
from sonoloop.jobs.drifting.pictures import Sample, figures_of
from sonoloop.jobs.runs import start_run
from sonoloop.jobs.status import run_status
from sonoloop.platform.errors import ConfigError, NothingToDoError
from sonoloop.platform.records import CaseImage, CaseRecord, DraftRecord, content_id
from sonoloop.platform.sorted_rooms import CASES, DRAFTS, write_sorted
from sonoloop.platform.workspace import Store

MONTHS = (1, 2, 3, 4)
PER_MONTH = 30
STEADY, MOVING = "Acme One", "Acme Two"


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return Config(workspace=str(tmp_path), archive="a", drift={"min_values": 20})


@pytest.fixture
def workspace(config: Config) -> Store:
    return config.open_workspace()


def speckle(draw: np.random.Generator, gain: float) -> np.ndarray:
    noise = draw.rayleigh(60 * gain, (48, 64)).clip(0, 255)
    return np.dstack([noise.astype(np.uint8)] * 3)


def png(picture: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "PNG")
    return stream.getvalue()


def fill(config: Config, workspace: Store, *, moves: bool, model_of: dict[int, str] | None = None) -> None:
    """Four months of two scanners; in the last one, the second scanner's cases may have moved in all ways."""
    draw = np.random.default_rng(0)
    for month in MONTHS:
        at = datetime(2026, month, 15, tzinfo=UTC)
        run = start_run(workspace, "annotate", run_id=f"run-{month}", key="k", config=config)
        run.model_copy(update={"started_at": at, "state": "finished"}).write(workspace)
        cases, drafts, reviews = [], [], []
        for number in range(2 * PER_MONTH):
            scanner = (STEADY, MOVING)[number % 2]
            moved = moves and month == MONTHS[-1] and scanner == MOVING
            case_id = content_id(str(month), str(number))
            key = f"images/{case_id}.png"
            workspace.write_bytes(png(speckle(draw, 0.4 if moved else 1)), key)
            image = CaseImage(image_key=key, instance_id="i", frame_index=0, width=64, height=48)
            cases.append(case(case_id, scanner, at, image))
            version = (model_of or {}).get(month, "m/1")
            sure = float(draw.uniform(0.4, 0.6) if moved else draw.uniform(0.7, 0.9))
            lesion = "present" if draw.random() < (0.9 if moved else 0.2) else "absent"
            drafts.append(drafted(case_id, f"run-{month}", version, sure, lesion))
            changed = int(draw.integers(4, 8) if moved else draw.integers(0, 4))
            kinds = ["prediction-changed"] * changed + ["prediction"] * (10 - changed) + ["missing"]
            origins = {str(place): kind for place, kind in enumerate(kinds)}
            reviews.append(
                said(case_id, model_version=version, origins=origins, created_at=at, updated_at=at)
            )
        write_sorted(workspace, CASES, cases, f"{month}.parquet")
        write_sorted(workspace, DRAFTS, drafts, f"run-{month}", "0.parquet")
        write_said(workspace, *reviews)


def case(case_id: str, scanner: str, at: datetime, image: CaseImage) -> CaseRecord:
    return CaseRecord(
        case_id=case_id,
        patient_key="p",
        organ_hint="liver",
        scanner=scanner,
        images=(image,),
        indexed_at=at,
    )


def drafted(case_id: str, run_id: str, version: str, sure: float, lesion: str) -> DraftRecord:
    return DraftRecord(
        case_id=case_id,
        run_id=run_id,
        model_version=version,
        prompt_version="p",
        config_hash="h",
        status="draft",
        entities=entities(lesion=lesion),
        value_probabilities={"parenchyma": sure, "lesion": sure},
    )


def test_a_quiet_workspace_raises_no_alarm(config: Config, workspace: Store) -> None:
    assert run_status(config).drift == ["not looked at; run `sonoloop drift`"]
    fill(config, workspace, moves=False)
    report = run_drift(config)
    assert (report.month, report.reference) == ("2026-04", ("2026-01", "2026-02", "2026-03"))
    assert {one.what for one in report.compared} >= {
        "confidence",
        "corrections",
        "mix: organ",
        "mix: liver.lesion",
        "pictures: brightness",
        "pictures: sharpness",
    }
    assert report.alarms == []
    assert run_status(config).drift == [f"2026-04: nothing of {len(report.compared)} series moved"]


def test_a_scanner_that_moved_raises_alarms_that_status_shows(config: Config, workspace: Store) -> None:
    fill(config, workspace, moves=True)
    report = run_drift(config)
    assert {alarm.scanner for alarm in report.alarms} == {MOVING}
    found = {alarm.what: alarm for alarm in report.alarms}
    assert {
        "confidence",
        "corrections",
        "mix: liver.lesion",
        "pictures: brightness",
        "pictures: contrast",
    } <= set(found)
    assert found["confidence"].shift < 0 < found["corrections"].shift
    assert found["confidence"].written_by == "m/1@p"
    assert found["corrections"].month["mean"] > 0.4  # fields that were empty on both sides do not count
    assert (
        found["mix: liver.lesion"].month["present"]
        > 0.7
        > 0.4
        > found["mix: liver.lesion"].reference["present"]
    )
    shown = run_status(config).drift
    assert len(shown) == len(report.alarms)
    assert all(line.startswith("ALARM 2026-04: ") and MOVING in line for line in shown)
    assert summary_of(report).alarms == [line.removeprefix("ALARM 2026-04: ") for line in shown]


def test_an_earlier_month_can_be_looked_at_and_does_not_hide_the_latest(
    config: Config, workspace: Store
) -> None:
    fill(config, workspace, moves=True)
    latest = run_drift(config)
    assert run_drift(config, month="2026-03").alarms == []
    assert run_drift(config, month="2026-01").compared == ()
    assert len(run_status(config).drift) == len(latest.alarms)


def test_another_champion_is_no_drift(config: Config, workspace: Store) -> None:
    fill(config, workspace, moves=False, model_of={4: "m/2"})
    report = run_drift(config)
    assert {one.what for one in report.compared} == {
        f"pictures: {name}" for name in figures_of(np.zeros((9, 9), np.uint8))
    }
    assert report.too_few > 0


def test_pictures_are_measured_once_and_those_that_are_gone_omitted(config: Config, workspace: Store) -> None:
    fill(config, workspace, moves=True)
    workspace.remove(f"images/{content_id('4', '0')}.png")
    workspace.write_bytes(b"no picture", f"images/{content_id('4', '2')}.png")
    first = run_drift(config)
    (bright,) = (c for c in first.compared if c.what == "pictures: brightness" and c.scanner == STEADY)
    assert bright.month["n"] == PER_MONTH - 2
    workspace.remove_folder("images")
    assert run_drift(config).compared == first.compared


def test_what_is_no_month_or_has_nothing_in_it_is_told(config: Config, workspace: Store) -> None:
    with pytest.raises(NothingToDoError, match="holds no cases"):
        run_drift(config)
    fill(config, workspace, moves=False)
    for wrong in ("2026-13", "march", "2026-3"):
        with pytest.raises(ConfigError, match="expected a month"):
            run_drift(config, month=wrong)
    with pytest.raises(NothingToDoError, match="in 2025-12; the latest is 2026-04"):
        run_drift(config, month="2025-12")


def test_a_report_of_another_version_is_as_none(config: Config, workspace: Store) -> None:
    workspace.write_bytes(b"{}", "drift", "2026-04.json")
    assert run_status(config).drift == ["not looked at; run `sonoloop drift`"]


def test_figures_of_a_picture_say_what_a_person_would_see() -> None:
    picture = speckle(np.random.default_rng(0), 1)
    plain = figures_of(picture)
    darker, blurred = figures_of(picture // 2), figures_of(cv2.blur(picture, (5, 5)))
    masked = picture.copy()
    masked[:24] = 0
    half = figures_of(masked)
    assert darker["brightness"] < 0.6 * plain["brightness"]
    assert darker["contrast"] < 0.6 * plain["contrast"]
    assert blurred["sharpness"] < plain["sharpness"] - 1
    assert half["filled"] == pytest.approx(plain["filled"] / 2, abs=0.02)
    assert half["brightness"] == pytest.approx(plain["brightness"], abs=0.02)
    assert figures_of(picture[:, :, 0]) == plain
    assert figures_of(np.zeros((20, 20), np.uint8)) == dict.fromkeys(plain, 0.0)


def test_a_sample_is_bounded_and_the_same_for_the_same_cases_in_any_order() -> None:
    names = [f"case-{number}" for number in range(500)]
    drawn = []
    for order in (names, names[::-1]):
        sample = Sample(20)
        for name in order:
            sample.offer(("2026-01", "A"), name, f"images/{name}")
        drawn.append(set(sample.keys(("2026-01", "A"))))
    assert drawn[0] == drawn[1]
    assert len(drawn[0]) == 20
    none = Sample(0)
    none.offer(("2026-01", "A"), "x", "y")
    assert none.keys(("2026-01", "A")) == []
