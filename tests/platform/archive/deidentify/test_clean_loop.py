"""Every frame of a loop is looked at, and masked by what any of them showed."""

from __future__ import annotations

import io

import numpy as np
from dicom_files import ultrasound
from planted_text import left_of, plant, speckle_field

from sonoloop.platform.archive.deidentify.config import DeidentifyConfig
from sonoloop.platform.archive.deidentify.loop import clean_loop
from sonoloop.platform.archive.instance import Instance
from sonoloop.platform.archive.reading.open import open_instance

FIELD = (0, 20, 239, 179)
SHOWN = 5


def loop() -> tuple[Instance, np.ndarray, np.ndarray]:
    """Nine frames of moving speckle; the sixth alone, between the second looks, bears a name."""
    fields = np.stack([speckle_field(i, rows=180, columns=240) for i in range(9)])
    frames = fields.copy()
    frames[SHOWN] = plant(fields[SHOWN], "MUELLER, EVA", (30, 60), size=13)
    data = ultrasound(frames, frames=9, regions=(FIELD,))
    return open_instance(io.BytesIO(data), name="x"), fields, frames


def test_a_name_on_one_frame_is_masked_on_all_and_frames_come_in_order() -> None:
    instance, fields, frames = loop()
    cleaned = clean_loop(instance, DeidentifyConfig())
    results = list(cleaned)
    assert len(results) == len(cleaned) == 9
    for field, result in zip(fields, results, strict=True):
        assert left_of(fields[SHOWN], frames[SHOWN], result) < 0.02
        assert (result[20:] == field[20:]).mean() > 0.8
        assert not result[:20].any()
    assert {mask.why for mask in cleaned.audit.masks} > {"outside-regions"}


def test_frames_are_decoded_one_at_a_time_and_again_on_each_pass() -> None:
    instance, _, _ = loop()
    cleaned = clean_loop(instance, DeidentifyConfig(pictures_are_clean=True))
    first, again = next(iter(cleaned)), next(iter(cleaned))
    assert first is not again
    np.testing.assert_array_equal(first, again)
