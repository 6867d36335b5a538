"""Only pixels inside declared regions leave, as plain PNG."""

from __future__ import annotations

import io

import numpy as np
import pytest
from dicom_files import REGION, speckle
from PIL import Image

from sonoloop.platform.archive.deidentify import clean_frame, encode_png
from sonoloop.platform.archive.instance import Region
from sonoloop.platform.errors import Reason, RejectedError


@pytest.mark.parametrize("channels", [1, 3])
def test_everything_outside_the_regions_is_black_and_inside_untouched(channels: int) -> None:
    frame = speckle(1, channels=channels)
    regions = (Region(*REGION), Region(0, 92, 5, 94))
    inside = np.zeros(frame.shape[:2], dtype=bool)
    inside[24:90, 16:112] = inside[92:95, 0:6] = True
    cleaned = clean_frame(frame, regions, pictures_are_clean=False)
    assert not cleaned[~inside].any()
    np.testing.assert_array_equal(cleaned[inside], frame[inside])
    assert frame[:20].any(), "the source itself is left alone"


def test_without_a_region_a_frame_is_refused_unless_the_archive_was_cleaned() -> None:
    with pytest.raises(RejectedError) as caught:
        clean_frame(speckle(), (), pictures_are_clean=False)
    assert caught.value.reason == Reason.PHI_SUSPECTED
    np.testing.assert_array_equal(clean_frame(speckle(), (), pictures_are_clean=True), speckle())


def test_a_cleaned_archive_changes_nothing_for_frames_with_regions() -> None:
    cleaned = clean_frame(speckle(), (Region(*REGION),), pictures_are_clean=True)
    assert not cleaned[:20].any()


def test_png_is_named_by_content_lossless_and_carries_no_metadata() -> None:
    frame = speckle(2, channels=3)
    frame[..., 0] //= 2
    key, data = encode_png(frame)
    assert encode_png(frame) == (key, data)
    assert key.startswith("images/")
    assert key.split("/")[1] == key.split("/")[2][:2]
    picture = Image.open(io.BytesIO(data))
    assert picture.info == {}
    np.testing.assert_array_equal(np.asarray(picture), frame)


def test_grey_stored_as_colour_becomes_grey() -> None:
    grey = speckle(3)
    assert encode_png(np.stack([grey] * 3, axis=-1)) == encode_png(grey)
    assert Image.open(io.BytesIO(encode_png(grey)[1])).mode == "L"
