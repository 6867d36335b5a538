"""Broken objects are broken in the announced way; the real ones are real ultrasound."""

from __future__ import annotations

import io

import pydicom
import pytest
from pydicom.errors import InvalidDicomError

from sonoloop.platform.archive.reading.open import open_instance
from sonoloop.platform.errors import Reason, RejectedError
from sonoloop.platform.phantoms.extras import broken_objects, real_examples


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        ("broken/truncated.dcm", Reason.TRUNCATED),
        ("broken/notes.dcm", Reason.NOT_AN_IMAGE),
        ("broken/empty.dcm", Reason.EMPTY_OBJECT),
        ("broken/without-pixels.dcm", Reason.NO_PIXELS),
        ("broken/computed-tomography.dcm", Reason.NOT_ULTRASOUND),
    ],
)
def test_the_reader_rejects_each_broken_object_for_its_reason(key: str, reason: Reason) -> None:
    data = dict(broken_objects())[key]

    def look() -> None:
        open_instance(io.BytesIO(data), name=key).frame(0)

    with pytest.raises(RejectedError) as caught:
        look()
    assert caught.value.reason == reason


def test_broken_objects_are_the_same_every_time() -> None:
    assert broken_objects() == broken_objects()


def test_the_text_file_is_no_dicom() -> None:
    with pytest.raises(InvalidDicomError):
        pydicom.dcmread(io.BytesIO(dict(broken_objects())["broken/notes.dcm"]))


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_real_examples_are_ultrasound_that_decodes() -> None:
    examples = real_examples()
    assert len(examples) == 5
    for key, data in examples:
        instance = open_instance(io.BytesIO(data), name=key)
        assert instance.modality == "US"
        assert instance.frame(0).max() > 0
