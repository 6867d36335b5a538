"""Clean frames as plain PNG."""

from __future__ import annotations

import io

import numpy as np
from dicom_files import speckle
from PIL import Image

from sonoloop.platform.archive.deidentify.png import encode_png


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
