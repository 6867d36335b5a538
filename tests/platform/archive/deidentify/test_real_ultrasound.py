"""The ultrasound files of deid-data: what is burned into them is gone, for a reader of another make."""

from __future__ import annotations

import io
import zipfile
from functools import cache
from pathlib import Path

import deid_data
import pytest
from planted_text import tesseract

from sonoloop.platform.archive.deidentify.clean import clean_frames
from sonoloop.platform.archive.deidentify.config import DeidentifyConfig
from sonoloop.platform.archive.deidentify.loop import clean_loop
from sonoloop.platform.archive.instance import Frame, Instance
from sonoloop.platform.archive.reading.open import open_instance
from sonoloop.platform.errors import Reason, RejectedError

FOLDER = Path(deid_data.__file__).parent / "data" / "ultrasounds"
BURNED_IN = {
    "GREYSCALE_IMAGE.dcm": ("ZZZTEST", "PATIENTF", "00079241539", "08/29/1951", "CCHS", "03/02/2017"),
    "RGB_IMAGE.dcm": ("ZZZDOWNTIME", "MARY", "00047431395", "120907058", "CLEVELAND", "4/14/2020"),
    "GREYSCALE_CINE.zip": ("ZZZTEST", "PATIENTF", "00079241539", "08/29/1951", "CCHS", "03/02/2017"),
    "RGB_CINE.zip": ("TEST,ADL", "0001128201", "01/30/1986", "AGMC", "7-OCT-2016"),
}
"""What Tesseract reads before."""
KEPT = {"GREYSCALE_IMAGE.dcm": "L12-5", "RGB_IMAGE.dcm": "16CM", "ultrasound-multiframe.dcm": "75"}


@cache
def opened(name: str) -> Instance:
    data = (FOLDER / name).read_bytes()
    if name.endswith(".zip"):
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            data = archive.read(archive.namelist()[0])
    return open_instance(io.BytesIO(data), name="x")


def readable(name: str, frame: Frame) -> list[str]:
    read = tesseract(frame)
    return [said for said in BURNED_IN[name] if said in read]


@pytest.mark.parametrize("name", BURNED_IN)
def test_nothing_of_the_banner_can_be_read_after_cleaning(name: str) -> None:
    instance = opened(name)
    frames = [instance.frame(index) for index in sorted({0, instance.num_frames - 1})]
    cleaned = clean_frames(frames, instance, DeidentifyConfig()).frames
    assert readable(name, frames[0]) == list(BURNED_IN[name])
    for frame in cleaned:
        assert readable(name, frame) == []


@pytest.mark.parametrize("name", KEPT)
def test_scanner_marks_stay_readable(name: str) -> None:
    instance = opened(name)
    (frame,) = clean_frames([instance.frame(0)], instance, DeidentifyConfig()).frames
    assert KEPT[name] in tesseract(frame)


def test_the_same_file_without_its_regions_is_quarantined_for_what_it_claims_and_for_what_it_shows() -> None:
    data = (FOLDER / "RGB_IMAGE.dcm").read_bytes()
    instance = open_instance(io.BytesIO(data.replace(b"\x18\x00\x11\x60SQ", b"\x19\x00\x11\x60SQ")), name="x")
    assert instance.regions == ()
    with pytest.raises(RejectedError) as caught:
        clean_frames([instance.frame(0)], instance, DeidentifyConfig())
    assert caught.value.reason == Reason.PHI_SUSPECTED


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in BURNED_IN if name.endswith(".zip")])
def test_nothing_of_the_banner_can_be_read_on_any_frame_of_a_loop(name: str) -> None:
    for frame in clean_loop(opened(name), DeidentifyConfig()):
        assert readable(name, frame) == []
