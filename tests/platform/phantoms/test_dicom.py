"""Files read back with pydicom: header, banner, regions and every frame, under every transfer syntax."""

from __future__ import annotations

import io
from datetime import date

import numpy as np
import pydicom
import pytest
from pydicom.pixels import pixel_array
from pydicom.uid import UID, JPEGBaseline8Bit

from sonoloop.platform.phantoms.case import PhantomCase, draw_case
from sonoloop.platform.phantoms.dicom import StudyHeader, write_instance
from sonoloop.platform.phantoms.encode import SYNTAXES
from sonoloop.platform.phantoms.patients import draw_patient
from sonoloop.platform.phantoms.render import render
from sonoloop.platform.phantoms.view import BANNER_HEIGHT

HEADER = StudyHeader(
    patient=draw_patient(1, 2, "liver"),
    study_uid="2.25.1",
    series_uid="2.25.2",
    study_date=date(2023, 5, 6),
    study_id="00007",
)


def _case(*, is_colour: bool) -> PhantomCase:
    cases = (draw_case(2, index, "liver", "B") for index in range(100))
    return next(case for case in cases if case.acquisition.is_colour == is_colour)


def _read(case: PhantomCase, moments: range, syntax: UID) -> pydicom.Dataset:
    frames = [render(case, moment) for moment in moments]
    return pydicom.dcmread(io.BytesIO(write_instance(case, HEADER, "2.25.3", 1, frames, syntax)))


@pytest.mark.parametrize("is_colour", [False, True], ids=["grey", "colour"])
@pytest.mark.parametrize("syntax", SYNTAXES, ids=lambda syntax: syntax.name)
def test_every_frame_decodes_to_the_rendered_picture(syntax: UID, is_colour: bool) -> None:
    case = _case(is_colour=is_colour)
    dataset = _read(case, range(3), syntax)
    assert dataset.file_meta.TransferSyntaxUID == syntax
    assert dataset.NumberOfFrames == 3
    for moment in range(3):
        decoded = pixel_array(dataset, index=moment)[BANNER_HEIGHT:].astype(float)
        rendered = render(case, moment).pixels[BANNER_HEIGHT:].astype(float)
        apart = np.abs(decoded - rendered)
        if syntax == JPEGBaseline8Bit:
            assert apart.mean() < 4
        else:
            assert apart.max() == 0


def test_a_still_and_a_loop_have_their_own_sop_class() -> None:
    case = _case(is_colour=False)
    still, loop = _read(case, range(1), SYNTAXES[0]), _read(case, range(8), SYNTAXES[0])
    assert still.SOPClassUID.name == "Ultrasound Image Storage"
    assert "NumberOfFrames" not in still
    assert loop.SOPClassUID.name == "Ultrasound Multi-frame Image Storage"
    assert loop.FrameTime == 50.0
    assert loop.FrameIncrementPointer == 0x00181063


def test_the_header_names_patient_organ_machine_and_probe() -> None:
    case = _case(is_colour=False)
    dataset = _read(case, range(1), SYNTAXES[1])
    assert str(dataset.PatientName) == HEADER.patient.name
    assert dataset.PatientBirthDate == f"{HEADER.patient.birth_date:%Y%m%d}"
    assert (dataset.StudyInstanceUID, dataset.BodyPartExamined) == ("2.25.1", "LIVER")
    assert "liver" in dataset.StudyDescription
    assert dataset.Manufacturer == case.acquisition.machine.manufacturer
    assert dataset.TransducerType == "CURVED LINEAR"


def test_the_region_covers_the_picture_in_centimetres_and_leaves_the_banner_out() -> None:
    case = _case(is_colour=False)
    region = _read(case, range(1), SYNTAXES[0]).SequenceOfUltrasoundRegions[0]
    assert region.RegionSpatialFormat == 1
    assert region.RegionDataType == 1
    assert region.PhysicalUnitsXDirection == 3
    assert region.RegionLocationMinY0 >= BANNER_HEIGHT
    assert region.RegionLocationMaxY1 < 336
    depth_cm = (region.RegionLocationMaxY1 - region.RegionLocationMinY0 + 1) * region.PhysicalDeltaY
    assert depth_cm == pytest.approx(case.acquisition.view.depth_mm / 10, rel=0.15)


def test_the_banner_carries_text_on_every_frame_and_it_is_the_patients() -> None:
    case = _case(is_colour=False)
    loop = pixel_array(_read(case, range(8), SYNTAXES[0]))
    for frame in loop:
        assert (frame[:BANNER_HEIGHT] > 150).sum() > 300
    other = StudyHeader(draw_patient(1, 3, "liver"), "2.25.1", "2.25.2", date(2023, 5, 6), "00007")
    data = write_instance(case, other, "2.25.3", 1, [render(case)], SYNTAXES[0])
    assert not np.array_equal(
        pixel_array(pydicom.dcmread(io.BytesIO(data)))[:BANNER_HEIGHT], loop[0][:BANNER_HEIGHT]
    )


def test_patients_are_invented_the_same_way_each_time() -> None:
    assert draw_patient(5, 9, "kidney") == draw_patient(5, 9, "kidney")
    assert len({draw_patient(5, number, "kidney").patient_id for number in range(300)}) == 300
    assert HEADER.patient.name not in repr(HEADER)
