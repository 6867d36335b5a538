"""Only pixels inside declared regions leave."""

from __future__ import annotations

import io

import numpy as np
import pytest
from dicom_files import REGION, speckle, ultrasound

from sonoloop.platform.archive.deidentify.clean import DeidentifyConfig, clean_frames
from sonoloop.platform.archive.instance import Instance
from sonoloop.platform.archive.reading.open import open_instance
from sonoloop.platform.errors import Reason, RejectedError

TRUSTING = DeidentifyConfig(pictures_are_clean=True)


def instance(pixels: np.ndarray, *regions: tuple[int, int, int, int]) -> Instance:
    return open_instance(io.BytesIO(ultrasound(pixels, regions=regions)), name="x")


@pytest.mark.parametrize("channels", [1, 3])
def test_everything_outside_the_regions_is_black_and_inside_untouched(channels: int) -> None:
    frame = speckle(1, channels=channels)
    inside = np.zeros(frame.shape[:2], dtype=bool)
    inside[24:90, 16:112] = inside[92:95, 0:6] = True
    (cleaned,) = clean_frames([frame], instance(frame, REGION, (0, 92, 5, 94)), DeidentifyConfig()).frames
    assert not cleaned[~inside].any()
    np.testing.assert_array_equal(cleaned[inside], frame[inside])
    assert frame[:20].any(), "the source itself is left alone"


def test_without_a_region_a_frame_is_refused_unless_the_archive_was_cleaned() -> None:
    with pytest.raises(RejectedError) as caught:
        clean_frames([speckle()], instance(speckle()), DeidentifyConfig())
    assert caught.value.reason == Reason.PHI_SUSPECTED
    (cleaned,) = clean_frames([speckle()], instance(speckle()), TRUSTING).frames
    np.testing.assert_array_equal(cleaned, speckle())


def test_a_cleaned_archive_changes_nothing_for_frames_with_regions() -> None:
    (cleaned,) = clean_frames([speckle()], instance(speckle(), REGION), TRUSTING).frames
    assert not cleaned[:20].any()
