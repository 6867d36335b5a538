"""Only pixels inside declared regions leave, and of these none that could name the patient."""

from __future__ import annotations

import io
import logging
from datetime import UTC, datetime

import numpy as np
import pytest
from dicom_files import REGION, speckle, ultrasound
from planted_text import left_of, plant, speckle_field, tesseract

from sonoloop.platform.archive.deidentify.clean import RULES_VERSION, Cleaned, clean_frames
from sonoloop.platform.archive.deidentify.config import DeidentifyConfig
from sonoloop.platform.archive.deidentify.masks import Box
from sonoloop.platform.archive.deidentify.quarantine import Release
from sonoloop.platform.archive.instance import Instance
from sonoloop.platform.archive.reading.open import open_instance
from sonoloop.platform.errors import Reason, RejectedError

TRUSTING = DeidentifyConfig(pictures_are_clean=True)
FIELD = (0, 30, 479, 359)
"""The region of a `speckle_field`: all but a banner of 30 rows."""


def instance(pixels: np.ndarray, *regions: tuple[int, int, int, int], **header: object) -> Instance:
    return open_instance(io.BytesIO(ultrasound(pixels, regions=regions, **header)), name="x")


def cleaned(pixels: np.ndarray, *regions: tuple[int, int, int, int], **header: object) -> Cleaned:
    return clean_frames([pixels], instance(pixels, *regions, **header), DeidentifyConfig())


def whys(result: Cleaned) -> set[str]:
    return {mask.why for mask in result.audits[0].masks} - {"outside-regions"}


def release(*masks: Box) -> Release:
    return Release(
        instance_id="i", etag="e", by="p", rules_version=RULES_VERSION, at=datetime.now(UTC), masks=masks
    )


@pytest.mark.parametrize("channels", [1, 3])
def test_everything_outside_the_regions_is_black_and_inside_untouched(channels: int) -> None:
    frame = speckle(1, channels=channels)
    inside = np.zeros(frame.shape[:2], dtype=bool)
    inside[24:90, 16:112] = inside[92:95, 0:6] = True
    (result,) = cleaned(frame, REGION, (0, 92, 5, 94)).frames
    assert not result[~inside].any()
    np.testing.assert_array_equal(result[inside], frame[inside])
    assert frame[:20].any(), "the source itself is left alone"


def test_without_a_region_a_name_in_the_pixels_does_not_pass_unless_the_archive_was_cleaned() -> None:
    with pytest.raises(RejectedError) as caught:
        cleaned(speckle())
    assert caught.value.reason == Reason.PHI_SUSPECTED
    (result,) = clean_frames([speckle()], instance(speckle()), TRUSTING).frames
    np.testing.assert_array_equal(result, speckle())


def test_a_cleaned_archive_changes_nothing_for_frames_with_regions() -> None:
    (result,) = clean_frames([speckle()], instance(speckle(), REGION), TRUSTING).frames
    assert not result[:20].any()


@pytest.mark.parametrize(
    ("text", "place", "size", "colour"),
    [
        ("ZIMMERMANN, ADELHEID", (40, 60), 12, "white"),
        ("Adelheid Zimmermann", (260, 300), 10, "yellow"),
        ("17.05.1949", (380, 170), 11, "cyan"),
        ("17-MAY-1949", (30, 200), 20, "white"),
        ("Zimmermann", (90, 150), 44, "yellow"),
        ("Krankenhaus Nirgendwo", (150, 240), 9, "green"),
    ],
)
def test_what_names_the_patient_inside_a_region_is_masked(
    text: str, place: tuple[int, int], size: int, colour: str
) -> None:
    field = speckle_field(2)
    frame = plant(field, text, place, size=size, colour=colour)
    result = cleaned(frame, FIELD)
    assert whys(result) <= {"text", "identifier", "unreadable-text"}
    assert left_of(field, frame, result.frames[0]) < 0.02
    assert (result.frames[0] != frame)[30:].any(axis=2).mean() < 0.25, "the tissue stays"


@pytest.mark.parametrize("dark", [(200, 200, 200), (255, 210, 0)])
def test_dark_letters_on_a_light_ground_are_masked(dark: tuple[int, int, int]) -> None:
    frame = plant(speckle_field(3), "ADELHEID", (200, 250), size=13, colour="black", ground=dark)
    assert "ADELHEID" in tesseract(frame)
    assert "ADELHEID" not in tesseract(cleaned(frame, FIELD).frames[0])


def test_text_that_runs_upwards_is_masked() -> None:
    lying = np.ascontiguousarray(np.rot90(speckle_field(4)))
    field, frame = (
        np.ascontiguousarray(np.rot90(one, -1)) for one in (lying, plant(lying, "ZIMMERMANN A", (60, 100)))
    )
    assert left_of(field, frame, cleaned(frame, FIELD).frames[0]) < 0.02


def test_harmless_marks_stay_and_are_counted() -> None:
    frame = speckle_field(5)
    frame[30:, :90] = 0
    for row, text in enumerate(("2D 60%", "MI 0.6", "Depth 4 cm", "Rt Breast", "L12-5", "36Hz")):
        frame = plant(frame, text, (8, 50 + 30 * row), size=14)
    result = cleaned(frame, FIELD)
    assert whys(result) == set()
    np.testing.assert_array_equal(result.frames[0][30:], frame[30:])
    assert result.audits[0].texts_kept == result.audits[0].texts_found == 6


def test_a_mark_that_is_a_name_of_the_header_is_masked() -> None:
    frame = plant(np.zeros((360, 480, 3), np.uint8), "LONG", (100, 100), size=16)
    assert whys(cleaned(frame, FIELD)) == set()
    assert whys(cleaned(frame, FIELD, PatientName="Long^Mary")) == {"identifier"}


def test_a_picture_without_text_passes_even_without_regions() -> None:
    frame = speckle_field(6)
    (result,) = cleaned(frame).frames
    np.testing.assert_array_equal(result, frame)


def test_only_marks_pass_without_regions_and_a_claim_of_text_is_believed() -> None:
    frame = plant(speckle_field(7), "MI 0.6", (20, 20), size=16)
    np.testing.assert_array_equal(cleaned(frame).frames[0], frame)
    with pytest.raises(RejectedError) as caught:
        cleaned(frame, BurnedInAnnotation="YES")
    assert caught.value.reason == Reason.PHI_SUSPECTED


def test_that_nothing_is_burned_in_is_not_believed() -> None:
    with pytest.raises(RejectedError):
        cleaned(plant(speckle_field(8), "MUELLER", (20, 20)), BurnedInAnnotation="NO")


def test_a_region_that_is_the_whole_picture_is_masked_all_the_same() -> None:
    field = speckle_field(9)
    frame = plant(field, "ZIMMERMANN A", (20, 8))
    result = cleaned(frame, (0, 0, 479, 359))
    assert whys(result) <= {"identifier", "text"}
    assert left_of(field, frame, result.frames[0]) < 0.02


def test_a_page_of_text_is_quarantined() -> None:
    page = np.full((120, 200, 3), 255, np.uint8)
    for row in range(5):
        page = plant(page, "seen with no complaints", (4, 24 * row + 2), size=16, colour="black")
    with pytest.raises(RejectedError) as caught:
        cleaned(page, (0, 0, 199, 119))
    assert caught.value.reason == Reason.PHI_SUSPECTED


def test_what_one_frame_hides_and_another_shows_is_masked_on_both() -> None:
    hidden = speckle_field(10)
    shown = plant(hidden, "ZIMMERMANN", (40, 60))
    result = clean_frames([hidden, shown], instance(hidden, FIELD), DeidentifyConfig())
    assert result.audits[0] == result.audits[1]
    assert left_of(hidden, shown, result.frames[0]) < 0.02


def test_a_configured_archive_without_regions_is_masked() -> None:
    field = speckle_field(11)
    frame = plant(field, "ZIMMERMANN", (40, 60))
    masking = DeidentifyConfig(text_without_regions="mask")
    (result,) = clean_frames([frame], instance(frame), masking).frames
    assert left_of(field, frame, result) < 0.02


def test_a_release_lets_out_with_the_persons_masks_and_still_masks_text() -> None:
    field = speckle_field(12)
    frame = plant(field, "ZIMMERMANN", (40, 60))
    with pytest.raises(RejectedError):
        cleaned(frame, BurnedInAnnotation="YES")
    box = Box(300, 200, 340, 999)
    opened = instance(frame, BurnedInAnnotation="YES")
    result = clean_frames([frame], opened, DeidentifyConfig(), release=release(box))
    assert "released" in whys(result)
    assert not result.frames[0][200:, 300:341].any()
    assert result.frames[0][199, 300:341].any()
    assert left_of(field, frame, result.frames[0]) < 0.02


def test_neither_audit_nor_error_nor_log_nor_output_holds_text(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    frame = plant(speckle_field(13), "ZIMMERMANN PID-471108", (40, 60))
    result = cleaned(frame, FIELD)
    with pytest.raises(RejectedError) as caught:
        cleaned(frame)
    said = (
        f"{result.audits} {caught.value!r} {caught.value.detail} {caplog.text} {''.join(capfd.readouterr())}"
    )
    assert "zimmermann" not in said.casefold()
    assert "471108" not in said
