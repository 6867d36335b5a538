"""Without the decoders under the GPL their objects are rejections that say what to install."""

from __future__ import annotations

import io
import subprocess
import sys

import numpy as np
import pytest
from dicom_files import encapsulated, speckle
from PIL import Image

from sonoloop.platform.archive.reading import optional
from sonoloop.platform.archive.reading.open import open_instance
from sonoloop.platform.errors import Reason, RejectedError


def saved(kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(speckle(1)).save(buffer, kind)
    return buffer.getvalue()


def refusal(data: bytes) -> RejectedError:
    with pytest.raises(RejectedError, match=r"sonoloop\[gpl\]") as caught:
        open_instance(io.BytesIO(data), name="x").frame(0)
    return caught.value


def test_jpeg_xl_is_refused_and_may_be_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    data = saved("JXL")
    monkeypatch.setattr(optional, "HAS_JPEG_XL", False)
    in_dicom = encapsulated([data], "1.2.840.10008.1.2.4.112", speckle(1))
    for each in (data, in_dicom):
        assert (refusal(each).reason, refusal(each).retryable) == (Reason.UNREADABLE, True)
    assert open_instance(io.BytesIO(saved("PNG")), name="x").rows == len(speckle(1))


def test_only_the_jpeg_that_needs_libjpeg_is_refused_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optional, "HAS_LIBJPEG", False)
    baseline = encapsulated([saved("JPEG")], "1.2.840.10008.1.2.4.50", speckle(1))
    assert open_instance(io.BytesIO(baseline), name="x").frame(0).shape == speckle(1).shape
    start = bytearray(saved("JPEG"))
    place = start.index(b"\xff\xc0")
    start[place + 1], start[place + 4] = 0xC1, 12  # extended, 12 bits
    deep = encapsulated([bytes(start)], "1.2.840.10008.1.2.4.51", speckle(1).astype(np.uint16), BitsStored=12)
    assert refusal(deep).retryable


def test_the_readers_load_without_jpeg_xl() -> None:
    code = (
        "import sys; sys.modules['pillow_jxl'] = None\n"
        "import importlib.util as u; real = u.find_spec\n"
        "u.find_spec = lambda name, *a: None if name == 'pillow_jxl' else real(name, *a)\n"
        "from sonoloop.platform.archive.reading import optional, pictures\n"
        "assert not optional.HAS_JPEG_XL\n"
        "assert 'JXL' not in pictures.PICTURE_FORMATS\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
